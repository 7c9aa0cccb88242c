"""Studies: experiments on real cells that are too long for a chapter's budget, and whose outcome a chapter shows.

A study is a class on top of `study.Study`; `leuk study NAME --dataset FOLDER` runs it, job by job, resumable after
any death (`runner`). Its outcome, tables and provenance but no image, is a record (`record`) that is committed in
`book/reference/studies/`: the chapters read their numbers from there, and show where they come from.
"""

#: Name of a study -> ``module:Class``. Nothing is imported until a study is asked for.
STUDIES: dict[str, str] = {
    "balancing": "leuk_lib.studies.balancing:Balancing",
    "enhancement": "leuk_lib.studies.enhancement:Enhancement",
    "explanation": "leuk_lib.studies.explanation:Explanation",
    "ladder": "leuk_lib.studies.ladder:Ladder",
    "leakage": "leuk_lib.studies.leakage:Leakage",
    "pretraining": "leuk_lib.studies.pretraining:Pretraining",
}
