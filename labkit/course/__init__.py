"""The course: functions that the cells of a lesson call.

    lk.course.start("scalar")                        # set-up: versions, device, data
    lk.course.predict("scalar.gain", "…?", ["a", "b"])   # the learner makes a guess
    lk.course.reveal("scalar.gain", truth)               # shows the guess next to the truth
    lk.course.question("scalar.law", "…?", {"a": None, "b": "Why not."})  # options with feedback
    lk.course.exercise("scalar.gain").check(answer)      # also .hint() and .solution()
    lk.course.table(frame, "Rate in bits per latent")    # a table with a caption
    lk.course.expect("0.249 too low", value, 0.249, within=0.0005)   # compares a value with the text
    lk.course.hypothesis("structure")                    # the learner predicts the verdict on a claim of the paper
    lk.course.open_hypotheses()                          # shows the hypotheses next to the verdicts of the study
    lk.course.experiment("noise", "mixed")               # two schemes, paired seeds, and a rule that comes first
    lk.course.progress()                             # a map of the course, from a local file
    lk.course.results.forks("method")                # tables of trained networks
    lk.course.capstone.check("my_codec.py", stage=1)     # checks a stage of the learner's own codec

The keys of lessons, predictions, questions and exercises are words. `exercises/` has one module for the exercises of
each lesson.
"""

from labkit.course import capstone, figures, results
from labkit.course.exercises import Exercise, Verdict, exercise
from labkit.course.expectations import expect
from labkit.course.experiments import Experiment, experiment
from labkit.course.guesses import Prediction, predict, reveal
from labkit.course.hypotheses import CLAIMS, Hypothesis, hypothesis, open_hypotheses
from labkit.course.lessons import LESSONS, Lesson
from labkit.course.opening import start
from labkit.course.overview import progress
from labkit.course.questions import Question, question
from labkit.course.tables import table

__all__ = [
    "CLAIMS",
    "LESSONS",
    "Exercise",
    "Experiment",
    "Hypothesis",
    "Lesson",
    "Prediction",
    "Question",
    "Verdict",
    "capstone",
    "exercise",
    "expect",
    "experiment",
    "figures",
    "hypothesis",
    "open_hypotheses",
    "predict",
    "progress",
    "question",
    "results",
    "reveal",
    "start",
    "table",
]
