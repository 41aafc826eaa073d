"""Research: grids of training runs (`sweeps`), and a study of the field's claims that uses them (`study`)."""

from labkit.research import study as study
from labkit.research import sweeps as sweeps
