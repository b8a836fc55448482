"""What `verify` looks at: `rows` (arithmetic within a row), `sets` (rows among each other and against their sheet),
`networks` (a row's config computed anew: identity, parameters, multiply-accumulates), `evidence` (the other files of a
run's folder). Every check yields reasons in words.

What no check can tell is listed below, with why. In a table the sheet's seal holds these too; in a run's folder there
is nothing that would.
"""

from __future__ import annotations

from collections.abc import Mapping

ON_TRUST: Mapping[str, str] = {
    "peak_mem_gib": "nothing else keeps what the allocator gave out; it must be at least that of the weights",
    "energy_j_per_clip": "nothing else keeps for how long the meter ran",
    "roofline_ms": "the ceilings are those of a machine at one moment; it must be below the latency",
    "train_clips_per_s": "the log of training has the rate of parts, not of the whole",
    "data_wait_share": "likewise",
    "in_order_share": "a data set is not inspected again",
    "model.overrides.fine_sizes": "a choice that no block of the pattern reads, which makes no other network",
    "model.overrides.coarse_sizes": "likewise",
    "provenance.commit": "of a folder of runs, which has no sheet",
    "provenance.python": "a circumstance that no number of the row depends on by arithmetic",
    "provenance.numpy": "likewise",
    "provenance.cudnn": "likewise",
    "provenance.decoder": "likewise",
    "provenance.decoder_version": "likewise",
    "provenance.attention_backends": "likewise",
    "provenance.matmul_precision": "likewise",
    "provenance.started_utc": "likewise; it must be before the end",
    "provenance.finished_utc": "likewise; it must be after the start",
}
"""Fields of a finished run whose change within their range nobody can see, and why."""

ON_TRUST_IN_TABLES: Mapping[str, str] = {
    **{
        f"latency_ms_{level}": "a table keeps no samples; it must agree with the others"
        for level in ("p50", "p20", "p80")
    },
    "throughput_clips_per_s": "a table keeps no samples; it must agree with the latency",
    "compile_s": "a table keeps no measurement",
    "flags": "likewise; what the times say of themselves must be among them",
    "gate": "likewise",
    "final_train_loss": "a table keeps no log of training",
    "calibration_error": "a table keeps no predictions; it must be a fraction",
    "top1_<factor>": "likewise; it must be whole videos, and not below what top1 leaves room for",
    "num_failed_videos": "likewise, where the data set is not ours",
}
"""Those that a table alone can't tell either, were it not for its sheet's seal."""
