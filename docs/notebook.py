"""harness in a notebook: run, diagnose, drift, history."""

# %% [markdown]
# # harness in a notebook
#
# Open this file as a notebook in VS Code, PyCharm, Spyder, or with Jupytext; run it from the root of the repository.
# Every cell runs without a GPU: the emulator stands in for engines. The tests execute it.

# %%
import tempfile
from pathlib import Path

import harness
from harness.diagnosis import DiagnosisOptions
from harness.report import drift_page, save_error_growth

CASE = "cases/rmsnorm-overflow.case.yaml"
scratch = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Run
# One case at two precisions. `to_frame` has a row a run and output; a run's layers say where the error starts.

# %%
report = harness.run(CASE, precisions=["fp16", "bf16"])
report.to_frame()[["case", "precision", "verdict", "tensor", "sample", "nrmse", "max_abs"]]

# %%
fp16 = report.results[0]
[(layer.node, layer.op, layer.metrics.overflow_count) for layer in fp16.origins]

# %% [markdown]
# ## Diagnose
# Which nodes must go back to FP32, and what to tell trtexec.

# %%
diagnosis = harness.diagnose(CASE, precision="fp16", options=DiagnosisOptions(growth=True))
print(diagnosis.summary)
layers = diagnosis.to_frame()
layers[layers["culprit"]][["node", "op", "accumulated", "introduced", "headroom"]]

# %% [markdown]
# ## Drift
# Two releases that differ in one node, `b3_up`, which the newer one rounds to BF16; each engine is built three times.
# With a GPU, name two environments of harness.toml here.

# %%
drifted = harness.drift(
    "cases/rmsnorm-mlp.case.yaml",
    environments=["emulator:fp16,noise=0.2,seed=1", "emulator:fp16,noise=0.2,seed=2,plant=b3_up@bf16"],
    history=scratch / "history",
)
for run in drifted.worst_first():
    print(run.status, run.verdict, run.reason, "; starts at", [origin.node for origin in run.origins])

# %%
tensors = drifted.to_frame()
tensors["verdict"].value_counts()

# %% [markdown]
# The numbers behind the verdicts: errors of both releases, the noise band of the older one's rebuilds, the floor.

# %%
moved = tensors[tensors["verdict"].isin(["regressed", "new failure"])]
moved.sort_values("change", ascending=False)[["node", "op", "verdict", "old", "new", "noise", "floor"]].head()

# %% [markdown]
# ## History
# Every build is a row: the noise of rebuilding, for example, is the spread over `build`.

# %%
rows = harness.load_history(scratch / "history")
layers_of_old = rows[(rows["kind"] == "layer") & (rows["release"] == drifted.old)]
spread = layers_of_old.groupby("node", observed=True)["error"].agg(["mean", "std"])
(spread["std"] / spread["mean"]).describe()

# %% [markdown]
# The page that `harness drift --html` writes, and pictures for a report.

# %%
(scratch / "drift.html").write_text(drift_page(drifted), encoding="utf-8")
save_error_growth(fp16, scratch / "growth.png")
sorted(path.name for path in scratch.iterdir())
