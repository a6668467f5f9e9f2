"""Soups: greedy weight averages of the ensembles of several trials that branch from one initial phase.

Ensembles are tried in order of their score, best first. An ensemble stays in the average if the validation score rises
(Wortsman et al., Model soups, ICML 2022, recipe 1). A soup is made in a Ray task, in one process, which reads the data
itself; the trials and their workers continue meanwhile.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dmlcsr.model import DMLCSR
from dmlcsr.predict import normalize
from dmlcsr.regulation import update_ensemble
from pipelines.config.training import TrainConfig
from pipelines.data import row_groups
from pipelines.data.dataset import Manifest
from pipelines.data.ordered import OrderedRows
from pipelines.models import scoring, setup
from pipelines.models.weight_files import read_weights, write_weights
from pipelines.regulation.ledger import SOUP, Ensemble, Soup, blend_shares
from pipelines.run.metric_names import VAL_MEAN_F1

BATCH_NORM_BATCHES = 64
"""Maximum number of training batches from which a soup's BatchNorm statistics are estimated."""


class SoupScorer:
    """Scores a soup with the data of a sweep and the network of its trials."""

    def __init__(self, config: TrainConfig, manifest: Manifest) -> None:
        self.config = config
        self.card = setup.model_card(config, manifest.taxonomy)
        self.device = torch.device("cuda" if config.workers.use_gpu else "cpu")
        self.train = setup.train_stream(config, manifest, 0, 1)
        self.validation = row_groups.open_split(config.data, manifest, "val")

    def reestimate_and_score(self, average: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """The average with re-estimated BatchNorm statistics, and its mean F1 (0 to 1) on the validation split."""
        network = DMLCSR(self.card.architecture)
        network.load_state_dict(dict(average))
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        scoring.reestimate_batch_norm(network, self._images(), BATCH_NORM_BATCHES)
        rows = OrderedRows(source=self.validation, preprocessing=self.card.preprocessing)
        metrics = scoring.validation_metrics(network, self.card, self.device, rows.chunks())
        return network.state_dict(), metrics[VAL_MEAN_F1]

    def _images(self) -> Iterator[Tensor]:
        """Yields normalized batches of the epoch that follows the initial phase."""
        epoch = self.config.schedule.epochs
        for batch in self.train.batches_here(epoch, epoch + 1):
            yield normalize(torch.from_numpy(batch["image"]).to(self.device), self.card.preprocessing)


def make_soup(settings: Mapping[str, Any], candidates: Sequence[Ensemble], cycle: int, prefix: str) -> Soup:
    """Makes the soup of these ensembles, which are given best first. Writes its weights to `<prefix>-<digest>`.

    `settings` holds `config` (TrainConfig) and `manifest` (Manifest) as JSON-able dicts.
    """
    torch.set_num_threads(1)
    scorer = SoupScorer(TrainConfig.model_validate(settings["config"]), Manifest.model_validate(settings["manifest"]))
    best = candidates[0]
    state, score, coefficients = read_weights(best.weights), best.val_mean_f1, best.coefficients
    members = [best]
    for ensemble in candidates[1:]:
        tried, tried_score = scorer.reestimate_and_score(
            update_ensemble(state, read_weights(ensemble.weights), len(members))
        )
        if tried_score > score:
            coefficients = blend_shares(coefficients, ensemble.coefficients, len(members))
            members.append(ensemble)
            state, score = tried, tried_score
    return Soup(
        trial=SOUP,
        cycle=cycle,
        weights=write_weights(prefix, state),
        val_mean_f1=score,
        coefficients=coefficients,
        members=[member.source for member in members],
    )
