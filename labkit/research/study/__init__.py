"""The study: claims about surrogates, each tested on networks with common seeds, batches and checkpoints.

    study = lk.research.study.Study("bound", "study-runs", "results", seeds=2)
    result = lk.research.study.run(study, workers=2)      # trains what is missing; a table, a figure and a report
    print(lk.research.study.claim_report("bound"))        # the verdict from the bundled table

The files, from the declarations to the verdicts: claims/NAME.toml → declarations → engine (runs and measurements) →
tables → claims/NAME.py → findings → report, figures and Markdown.
"""

from labkit.research.study.claims import CLAIMS
from labkit.research.study.declarations import Study
from labkit.research.study.engine import StudyResult, preview, run
from labkit.research.study.figures import draw_figures
from labkit.research.study.findings import Finding
from labkit.research.study.markdown import rewrite
from labkit.research.study.report import ClaimReport, claim_report, claim_reports
from labkit.research.study.tables import read, table_path

__all__ = [
    "CLAIMS",
    "ClaimReport",
    "Finding",
    "Study",
    "StudyResult",
    "claim_report",
    "claim_reports",
    "draw_figures",
    "preview",
    "read",
    "rewrite",
    "run",
    "table_path",
]
