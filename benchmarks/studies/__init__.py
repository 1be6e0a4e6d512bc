"""The studies. A new one is one entry of STUDIES; another kind of cell is a function like `lora_cell.run`."""

from __future__ import annotations

from benchmarks.studies.characters import ADAPTERS, CAPTION_TAGS, IDENTITY, MIXING, PRESERVE
from benchmarks.studies.collaboration import SCS, SCS_VERB
from benchmarks.studies.composites import CCA_EDGES, CCA_FOUR, CCA_MASKS, CCA_RATIO, CCA_SAME_STYLE
from benchmarks.studies.fusions import FUSION, FUSION_SEEN, FUSION_THREE
from benchmarks.studies.motions import MOTION, MOTION_VERB
from benchmarks.study import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        IDENTITY, CAPTION_TAGS, ADAPTERS, MIXING, CCA_RATIO, CCA_SAME_STYLE, CCA_FOUR, CCA_EDGES, CCA_MASKS,
        PRESERVE, MOTION, MOTION_VERB, FUSION, FUSION_SEEN, FUSION_THREE, SCS, SCS_VERB,
    )
}  # fmt: skip
