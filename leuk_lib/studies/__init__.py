"""Studies: experiments on real cells that take too long for a chapter, and their committed records.

A study is a class derived from `study.Study`. ``leuk study NAME --dataset FOLDER`` runs its jobs and continues after an
interruption (`runner`). The outcome, tables and provenance without images, is a record (`record`) in
``book/reference/studies/``, from which the chapters read their numbers. A canary of seconds (`canary`) checks that the
present code still computes what the record was made with.
"""

#: Name of a study -> ``module:Class``, imported on demand.
STUDIES: dict[str, str] = {
    "balancing": "leuk_lib.studies.balancing:Balancing",
    "budget": "leuk_lib.studies.budget:Budget",
    "enhancement": "leuk_lib.studies.enhancement:Enhancement",
    "explanation": "leuk_lib.studies.explanation:Explanation",
    "ladder": "leuk_lib.studies.ladder:Ladder",
    "leakage": "leuk_lib.studies.leakage:Leakage",
    "pretraining": "leuk_lib.studies.pretraining:Pretraining",
}
