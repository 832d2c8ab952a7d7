"""Which GPU a worker sees: chosen by number before it starts, because CUDA looks only once."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import EnvironmentConfigError


def gpu_variables(gpu: int, caller: Mapping[str, str]) -> dict[str, str]:
    """The variables that leave a worker one GPU.

    Args:
        gpu: an index into the caller's own list: with `CUDA_VISIBLE_DEVICES=3,5`, 1 is the GPU 5. Entries may
            be UUIDs of GPUs or of MIG instances.
        caller: the caller's environment variables.

    Raises:
        EnvironmentConfigError: the caller's list has no such entry.
    """
    listed = caller.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        # The order in which nvidia-smi counts; CUDA's own default puts the fastest GPU first.
        order = caller.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return {"CUDA_VISIBLE_DEVICES": str(gpu), "CUDA_DEVICE_ORDER": order}
    entries = []
    for entry in listed.split(","):
        entry = entry.strip()
        if entry in ("", "-1"):  # CUDA reads no further
            break
        entries.append(entry)
    if gpu >= len(entries):
        raise EnvironmentConfigError(
            f"gpu = {gpu}, but CUDA_VISIBLE_DEVICES={listed!r} lets only {len(entries)} be seen",
            hint="the number counts in the caller's own list, from 0; unset CUDA_VISIBLE_DEVICES to see all",
        )
    return {"CUDA_VISIBLE_DEVICES": entries[gpu]}
