"""The course: what a lesson's cells call.

    lk.course.start("02")                       # set-up: versions, device, data; warms what is slow on first use
    lk.course.predict("02.1", "…?", ["a", "b"]) # the learner commits to a guess; lk.course.reveal("02.1", truth)
    lk.course.exercise("02.1").check(answer)    # and .hint(), .solution()
    lk.course.progress()                        # a map of what was done, kept in a local file
    lk.course.results.method()                  # tables of trained networks that come with labkit

An exercise lives in the module of its lesson (`lesson_02.py`): its check, its hint, and its solution as Python code.
"""

from labkit.course import figures, results
from labkit.course.exercises import Exercise, Verdict, exercise
from labkit.course.guesses import predict, reveal
from labkit.course.opening import start
from labkit.course.overview import LESSONS, progress

__all__ = ["LESSONS", "Exercise", "Verdict", "exercise", "figures", "predict", "progress", "results", "reveal", "start"]
