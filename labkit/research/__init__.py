"""Research: grids of training runs (`sweeps`), and a study that uses them to test the field's claims (`study`)."""

from labkit.research import study as study
from labkit.research import sweeps as sweeps
