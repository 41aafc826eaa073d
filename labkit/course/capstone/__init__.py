"""The capstone: the learner writes a codec in one file, in eight stages, each of which is checked.

    lk.course.capstone.check("my_codec.py", stage=1)
    lk.course.capstone.start_from(3)    # backs up the file and writes the solutions of stages 1 and 2

`stages/` contains the checks with their oracles, `solutions/` contains the reference solution, and `child.py` is the
process that runs the learner's file.
"""

from labkit.course.capstone.catalog import STAGES, Stage
from labkit.course.capstone.grading import check
from labkit.course.capstone.pictures import reference_curve
from labkit.course.capstone.starting import start_from

__all__ = ["STAGES", "Stage", "check", "reference_curve", "start_from"]
