from hpsearch.api import load_space as load_space
from hpsearch.api import run as run
from hpsearch.api import tune as tune
from hpsearch.errors import BadInput as BadInput
from hpsearch.errors import HpsearchError as HpsearchError
from hpsearch.errors import NoTrialSucceeded as NoTrialSucceeded
from hpsearch.results.study import Study as Study
from hpsearch.results.study import Trial as Trial
from hpsearch.results.study import open_study as open_study
from hpsearch.space.space import SearchSpace as SearchSpace
from hpsearch.trainers.user import Checkpoint as Checkpoint
from hpsearch.trainers.user import Evaluation as Evaluation
from hpsearch.trainers.user import Run as Run

__version__: str
