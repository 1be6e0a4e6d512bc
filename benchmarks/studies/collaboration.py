"""Studies of characters and a motion that are sampled together."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import scs_cell
from benchmarks.scs_cell import Meeting
from benchmarks.studies.motions import PLAIN, WITH_VERB
from benchmarks.study import Study

# The motion LoRA of study `motion` with which the requested creatures made the motion most often.
_SCS = Meeting(imitation=replace(PLAIN, targets=("attn1",), heads="temporal"))

SCS = Study(
    name="scs",
    question="Do characters and a motion that were learnt apart come together by collaborative sampling?",
    arms={
        "subject alone": replace(_SCS, sampler="subject alone"),
        "motion alone": replace(_SCS, sampler="motion alone"),
        "summed": replace(_SCS, sampler="euler"),
        "summed, inverted noise": replace(_SCS, sampler="euler", inversion=0.3),
        "averaged": replace(_SCS, eta=0.0),
        "scs": _SCS,
        "scs, spatial only": replace(_SCS, temporal=False),
        "scs, temporal only": replace(_SCS, spatial=False),
        "scs-lite": replace(_SCS, sampler="scs-lite"),
        "scs, eta 0.05": replace(_SCS, eta=0.05),
        "scs, every second step": replace(_SCS, every=2),
        "scs, down to 0.5": replace(_SCS, window=(0.5, 1.0)),
        "scs, inverted noise": replace(_SCS, inversion=0.3),
        "scs, motion first": replace(_SCS, beta_subject=(0.4, 0.9), beta_motion=(0.6, 0.1)),
    },
    run=scs_cell.run,
    baseline="summed",
    contrast=("scs", "summed"),
    metrics=("one identity", "one motion", "one binding", "one carried", "one leakage"),
    shown=tuple(
        f"{motion}-{who}-01"
        for motion in ("leans-back", "drops-from-above", "trembles-and-jumps")
        for who in ("mimi", "otto")
    ),
    pictured=("subject alone", "motion alone", "summed", "averaged", "scs", "scs-lite"),
)

_VERB = Meeting(imitation=WITH_VERB)

SCS_VERB = Study(
    name="scs-verb",
    question="Do characters come together with a motion that has a verb of its own?",
    arms={
        "motion alone": replace(_VERB, sampler="motion alone"),
        "summed": replace(_VERB, sampler="euler"),
        "averaged": replace(_VERB, eta=0.0),
        "scs": _VERB,
        "scs-lite": replace(_VERB, sampler="scs-lite"),
    },
    run=scs_cell.run,
    baseline="summed",
    contrast=("scs", "summed"),
    repeated=("scs-lite",),
    metrics=SCS.metrics,
    shown=SCS.shown,
)
