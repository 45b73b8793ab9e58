from hpsearch.api import load_space as load_space
from hpsearch.api import run as run
from hpsearch.api import tune as tune
from hpsearch.errors import BadInput as BadInput
from hpsearch.errors import HpsearchError as HpsearchError
from hpsearch.errors import NoTrialSucceeded as NoTrialSucceeded
from hpsearch.execution.own import Checkpoint as Checkpoint
from hpsearch.execution.own import Evaluation as Evaluation
from hpsearch.execution.own import Run as Run
from hpsearch.results import Study as Study
from hpsearch.results import Trial as Trial
from hpsearch.results import open_study as open_study
from hpsearch.space.space import SearchSpace as SearchSpace

__version__: str
