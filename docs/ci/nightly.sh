#!/usr/bin/env bash
# A night without a CI system. In crontab, with your own paths:
#
#     17 2 * * *  /srv/harness/docs/ci/nightly.sh trt-old trt-new >> /var/log/harness-nightly.log 2>&1
#
# Holds the second release against the first, and then against its own last 30 nights. Pages are kept by date under
# reports/nightly/, records under reports/history/. Prints one line; exits with the first status that is not 0.
set -uo pipefail
cd "$(dirname "$0")/../.."
harness=${HARNESS:-.venv/bin/harness}
old=${1:?name the older environment}
new=${2:?name the newer environment}
targets=${3:-cases/}
folder=reports/nightly/$(date -u +%Y-%m-%d)
mkdir -p "$folder"

# What a night began and could not end, after a reboot say, is ended first.
resume=()
if compgen -G 'reports/history/*.parts/plan.json' > /dev/null; then resume=(--resume); fi

night() {
  "$harness" drift "$targets" --env "$old" --env "$new" --repeats 3 --quiet "$@" \
    --html "$folder/drift.html" --markdown "$folder/drift.md" --json "$folder/drift.json" > "$folder/drift.txt"
}

night "${resume[@]}"
status=$?
if [ ${#resume[@]} -gt 0 ] && [ $status -eq 2 ]; then # the interrupted run was of another matrix
  night
  status=$?
fi
"$harness" history show --env "$new" --last 30 --quiet --html "$folder/nightly.html" > "$folder/nightly.txt"
nightly=$?

echo "$(date -u +%FT%TZ) old against new: $status, nights before: $nightly, $folder/drift.html"
exit $((status ? status : nightly))
