"""Why a trial ended, and what a paused one waits for, as words for programs. Sentences said it before.

What stands here never changes again: it is how databases of this revision were made.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None

_STUDIES = sa.table("hps_studies", *map(sa.column, ("id", "name")))
_TRIALS = sa.table(
    "hps_trials", *map(sa.column, ("study_id", "number", "state", "reason", "attempts", "end_reason", "pause_kind"))
)
_DECISIONS = sa.table("hps_decisions", *map(sa.column, ("study_id", "trial_number", "action", "at")))

# Optuna's, as all of its versions have them.
_THEIR_STUDIES = sa.table("studies", *map(sa.column, ("study_id", "study_name")))
_THEIR_TRIALS = sa.table("trials", *map(sa.column, ("trial_id", "study_id", "number")))
_ATTRIBUTES = sa.table("trial_user_attributes", *map(sa.column, ("trial_id", "key", "value_json")))


def upgrade() -> None:
    op.add_column("hps_trials", sa.Column("end_reason", sa.String(32)))
    op.add_column("hps_trials", sa.Column("pause_kind", sa.String(32)))
    _read_the_ends()
    _read_the_pauses()
    _tell_optuna()


def _read_the_ends() -> None:
    """From the sentences with which older programs ended trials."""
    state, reason = _TRIALS.c.state, _TRIALS.c.reason
    ended = sa.case(
        (sa.and_(state != "failed", reason.like("infeasible%")), "infeasible"),
        (state == "complete", "completed"),
        (sa.and_(state == "failed", reason.like("poisoned: %")), "poisoned"),
        (sa.and_(state == "failed", reason == "ended by another program"), "ended_elsewhere"),
        (sa.and_(state == "failed", _TRIALS.c.attempts == 0), "bad_config"),
        (state == "failed", "failed"),
        (reason.like("diverged%"), "diverged"),
        (reason.like("out of memory%"), "out_of_memory"),
        (reason == "pruned by hand", "pruned_by_hand"),
        (reason.like("%, never promoted: %"), "not_promoted"),
        (reason.like("% chance to beat the best %"), "pruned_by_scheduler"),
        else_="pruned_by_pruner",
    )
    op.execute(sa.update(_TRIALS).where(state.in_(("complete", "pruned", "failed"))).values(end_reason=ended))


def _read_the_pauses() -> None:
    """A trial was paused by the scheduler where that is the last thing that the scheduler decided about it."""

    def last(action: str) -> sa.ScalarSelect[float]:
        mine = (_DECISIONS.c.study_id == _TRIALS.c.study_id, _DECISIONS.c.trial_number == _TRIALS.c.number)
        found = sa.select(sa.func.coalesce(sa.func.max(_DECISIONS.c.at), 0.0)).where(*mine, _DECISIONS.c.action == action)
        return found.correlate(_TRIALS).scalar_subquery()

    kind = sa.case(
        (last("pause") > last("promote"), "by_scheduler"),
        (sa.or_(_TRIALS.c.reason.like("slot lost: %"), _TRIALS.c.reason.like("out of memory: %")), "between_slots"),
        else_="interrupted",
    )
    op.execute(sa.update(_TRIALS).where(_TRIALS.c.state == "paused").values(pause_kind=kind))


def _tell_optuna() -> None:
    """Samplers read in Optuna's trials which ones diverged."""
    names = set(sa.inspect(op.get_bind()).get_table_names())
    if not {"studies", "trials", "trial_user_attributes"} <= names:
        return
    diverged = (
        sa.select(_THEIR_TRIALS.c.trial_id, sa.literal("end_reason"), sa.literal('"diverged"'))
        .join(_THEIR_STUDIES, _THEIR_STUDIES.c.study_id == _THEIR_TRIALS.c.study_id)
        .join(_STUDIES, _STUDIES.c.name == _THEIR_STUDIES.c.study_name)
        .join(_TRIALS, sa.and_(_TRIALS.c.study_id == _STUDIES.c.id, _TRIALS.c.number == _THEIR_TRIALS.c.number))
        .where(_TRIALS.c.end_reason == "diverged")
    )
    op.execute(sa.insert(_ATTRIBUTES).from_select(["trial_id", "key", "value_json"], diverged))


def downgrade() -> None:
    op.drop_column("hps_trials", "pause_kind")
    op.drop_column("hps_trials", "end_reason")
