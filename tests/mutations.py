"""Breaks the code on purpose and sees that a test notices: `python -m tests.mutations [NAME...]`, 10 to 20 minutes.

Each mutation replaces a text of one file in a copy of the tracked files, where the test that must fail then runs alone.
Prints a table; exits with 1 where a mutation survives, or a test fails in the code as it is.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SECONDS = 600
"""After so long a test that a mutation keeps from ending counts as failed."""


class Mutation(NamedTuple):
    """A way to break the code: `text`, which `file` has once, becomes `replacement`; the test `caught_by` must fail."""

    name: str
    file: str
    text: str
    replacement: str
    caught_by: str

    def mutated(self, root: Path = ROOT) -> str:
        """The file's new content. Raises ValueError where the text is not there exactly once."""
        content = (root / self.file).read_text()
        if content.count(self.text) != 1:
            raise ValueError(f"{self.name}: {self.file} has {content.count(self.text)} times {self.text!r}, not once")
        return content.replace(self.text, self.replacement)


LOSSES, UNIT, PIPELINES = "dmlcsr/losses", "tests/unit", "tests/pipelines"
TERMS, LOOP, REFINE = f"{LOSSES}/cpu_terms.py", "pipelines/training/loop.py", "dmlcsr/refine.py"
PUBLISHED = f"{UNIT}/dmlcsr/test_taxonomy.py::"
PARTS = f"{UNIT}/dmlcsr/test_softmax_terms.py::test_each_image_of_a_large_batch_has_its_own_weights_and_targets"
STEP = f"{UNIT}/training/test_loop.py::test_each_step_follows_the_mean_gradient_of_its_micro_batches"
RESUMED = (
    f"{PIPELINES}/training/test_train.py::"
    "test_a_killed_worker_is_replaced_and_the_weights_are_those_of_an_undisturbed_run"
)
VALIDATION = f"{PIPELINES}/training/test_train.py::test_validation_rows_of_all_workers_are_each_row_once"
TEACHERS = f"{PIPELINES}/regulation/test_teachers.py::test_each_cycle_is_taught_by_the_ensemble_of_the_one_before"

MUTATIONS = (
    # The method
    Mutation(
        "ears-that-are-no-pair",
        "dmlcsr/taxonomy/files/celebamask_hq.yaml",
        "  - {viewer_left: r_ear, viewer_right: l_ear}\n",
        "",
        f"{PUBLISHED}test_classes_pairs_and_sides_are_the_published_ones[celebamask_hq]",
    ),
    Mutation(
        "eyes-on-the-other-side",
        "dmlcsr/taxonomy/files/celebamask_hq.yaml",
        "{viewer_left: r_eye, viewer_right: l_eye}",
        "{viewer_left: l_eye, viewer_right: r_eye}",
        f"{PUBLISHED}test_classes_pairs_and_sides_are_the_published_ones[celebamask_hq]",
    ),
    Mutation(
        "hat-and-earring-swapped",
        "dmlcsr/taxonomy/files/celebamask_hq.yaml",
        "hair, hat, ear_r,",
        "hair, ear_r, hat,",
        f"{PUBLISHED}test_classes_pairs_and_sides_are_the_published_ones[celebamask_hq]",
    ),
    Mutation(
        "lips-swapped-by-a-remap",
        "dmlcsr/taxonomy/files/lapa.yaml",
        "u_lip: upper_lip, mouth: inner_mouth, l_lip: lower_lip",
        "u_lip: lower_lip, mouth: inner_mouth, l_lip: upper_lip",
        f"{PUBLISHED}test_a_remap_to_lapa_keeps_ignore_and_the_sides_as_the_viewer_sees_them[celebamask_hq]",
    ),
    Mutation(
        "weights-of-another-chunk",
        TERMS,
        "pixel_weights[:, c]",
        "pixel_weights[:, : len(label[c])]",
        f"{PARTS}[False-Tensor]",
    ),
    Mutation(
        "targets-of-another-chunk", TERMS, "else target[c]", "else target[: len(label[c])]", f"{PARTS}[True-Tensor]"
    ),
    Mutation(
        "edge-radius-ignored-by-the-losses",
        f"{LOSSES}/dml_loss.py",
        "edge_targets(label, edge_radius)",
        "edge_targets(label)",
        f"{UNIT}/dmlcsr/test_edge_radius.py::test_the_losses_are_of_edges_of_the_given_radius",
    ),
    Mutation(
        "edge-radius-ignored-by-the-targets",
        "dmlcsr/regulation.py",
        "edge_targets(label, edge_radius)",
        "edge_targets(label)",
        f"{UNIT}/dmlcsr/test_edge_radius.py::test_the_targets_of_distillation_are_of_edges_of_the_given_radius",
    ),
    Mutation(
        "batchnorm-statistics-of-one-worker-alone",
        "dmlcsr/regulation.py",
        "reduce(value)",
        "pass",
        f"{UNIT}/dmlcsr/test_regulation.py::test_reestimation_sums_over_the_workers_before_it_writes",
    ),
    Mutation(
        "logits-sampled-beside-their-place",
        "dmlcsr/predict.py",
        "(2 * centered * canvas) / (canvas - 1)",
        "2 * centered",
        f"{UNIT}/dmlcsr/test_predict.py::test_each_pixel_is_sampled_at_its_place_on_the_canvas",
    ),
    Mutation(
        "random-encoder-weights-accepted",
        "dmlcsr/pretrained.py",
        "    _require_encoder(architecture, report)\n",
        "",
        f"{UNIT}/dmlcsr/test_pretrained.py::test_a_checkpoint_without_a_stem_is_refused_with_its_names",
    ),
    Mutation(
        "border-of-the-card-ignored",
        "dmlcsr/predict.py",
        "preprocessing.size, Pose(), preprocessing.border_color)",
        "preprocessing.size, Pose())",
        f"{UNIT}/dmlcsr/test_predict.py::test_the_canvas_has_the_border_of_the_card",
    ),
    Mutation(
        "another-border-colour",
        "dmlcsr/augment.py",
        "BORDER_COLOR = (124, 116, 104)",
        "BORDER_COLOR = (124, 116, 106)",
        f"{UNIT}/dmlcsr/test_augment.py::test_what_is_outside_the_image_is_zero_for_the_network",
    ),
    Mutation(
        "tta-ignored-by-load_model",
        "dmlcsr/library.py",
        "card, device, tta)",
        "card, device)",
        f"{UNIT}/dmlcsr/test_library.py::test_a_loaded_model_averages_over_views_where_it_is_told_to",
    ),
    Mutation(
        "other-scales-of-test-time-averaging",
        "dmlcsr/predict.py",
        "TTA_SCALES = (0.75, 1.0, 1.25)",
        "TTA_SCALES = (0.8, 1.0, 1.25)",
        f"{UNIT}/dmlcsr/test_predict.py::test_test_time_averaging_sees_three_scales_each_as_it_is_and_mirrored",
    ),
    Mutation(
        "wrong-class-counts-on-cuda",
        f"{LOSSES}/dml_loss.py",
        "label.flatten() == ids",
        "label.flatten() >= ids",
        f"{UNIT}/dmlcsr/test_cuda_branches.py::test_classes_are_counted_without_waiting_for_the_device",
    ),
    Mutation(
        "no-bf16-in-prediction",
        "dmlcsr/predict.py",
        'enabled=self.device.type == "cuda"',
        "enabled=False",
        f"{UNIT}/dmlcsr/test_cuda_branches.py::test_a_parser_runs_in_bf16_on_cuda_only_and_answers_in_float32",
    ),
    Mutation(
        "no-bf16-in-training",
        LOOP,
        'enabled=self.device.type == "cuda"',
        "enabled=False",
        f"{UNIT}/training/test_loop.py::test_the_network_trains_in_bf16_on_cuda_only",
    ),
    Mutation(
        "no-ddgcn-with-another-kernel",
        "dmlcsr/model/ddgcn.py",
        "conv_norm(in_channels, self.channels, 3)",
        "conv_norm(in_channels, self.channels, 1)",
        f"{UNIT}/dmlcsr/test_model.py::test_without_the_graphs_their_last_convolution_remains",
    ),
    Mutation(
        "the-last-micro-batch-alone",
        LOOP,
        "            with self._reduces_gradients(",
        "            self.optimizer.zero_grad()\n            with self._reduces_gradients(",
        STEP,
    ),
    Mutation("the-sum-of-micro-batches", LOOP, "(terms.total / accumulate).backward()", "terms.total.backward()", STEP),
    Mutation(
        "memory-without-activations",
        "dmlcsr/footprint.py",
        " + activations * _WORK",
        "",
        f"{PIPELINES}/run/test_preflight.py::test_a_plan_tells_steps_and_bytes_and_does_nothing",
    ),
    Mutation(
        "memory-without-states-of-the-optimiser",
        "dmlcsr/footprint.py",
        "(2 + optimizer_states)",
        "2",
        f"{UNIT}/dmlcsr/test_footprint.py::test_each_state_of_the_optimiser_costs_the_weights_again",
    ),
    Mutation(
        "memory-of-the-wrong-optimiser",
        "pipelines/training/train.py",
        '"adamw": 2}',
        '"adamw": 1}',
        f"{UNIT}/training/test_loop.py::test_a_worker_needs_memory_for_the_states_of_its_optimiser",
    ),
    # Data
    Mutation(
        "a-receipt-for-other-items",
        "pipelines/data/packing.py",
        '(found.get("format_version"), found.get("work")) == (RECEIPT_VERSION, shard.digest())',
        "bool(found)",
        f"{UNIT}/data/test_packing.py::test_a_shard_is_done_once_and_again_where_its_items_changed",
    ),
    Mutation(
        "a-digest-of-names-alone",
        "pipelines/data/dataset.py",
        "{file.path} {file.sha256}",
        "{file.path}",
        f"{UNIT}/data/test_packing.py::test_equal_digests_mean_equal_names_and_contents",
    ),
    Mutation(
        "a-quarantine-without-reasons",
        "pipelines/ingest/rows.py",
        "reason=error.reason",
        'reason="bad"',
        f"{UNIT}/ingest/test_quarantine.py::test_every_bad_sample_is_in_the_table_with_its_own_reason",
    ),
    Mutation(
        "an-order-without-the-seed",
        "pipelines/data/order.py",
        "num_full, (self.seed, self.epoch))",
        "num_full, (self.epoch,))",
        f"{UNIT}/data/test_order.py::test_full_row_groups_come_in_the_order_of_seed_and_epoch",
    ),
    Mutation(
        "the-held-out-fold-is-trained-on",
        "pipelines/models/setup.py",
        '"train", config.fold_numbers)',
        '"train")',
        f"{UNIT}/training/test_loop.py::test_rows_of_the_fold_that_is_held_out_are_in_no_epoch",
    ),
    Mutation(
        "validation-rows-counted-twice",
        "pipelines/data/ordered.py",
        "part in (self.rank, self.rank + 1)",
        "part in (0, self.rank + 1)",
        VALIDATION,
    ),
    Mutation(
        "validation-rows-never-counted",
        "pipelines/data/ordered.py",
        "math.ceil(len(self._groups) / self._groups_per_chunk)",
        "len(self._groups) // self._groups_per_chunk",
        f"{UNIT}/data/test_ordered.py::test_every_row_is_in_one_chunk_of_one_worker",
    ),
    Mutation(
        "rows-of-an-epoch-taken-twice-by-other-workers",
        "pipelines/data/shares.py",
        "(*_all(owned), *self.remaining.parts)",
        "self.remaining.parts",
        f"{UNIT}/data/test_shares.py::test_an_epoch_goes_on_with_other_workers_without_a_row_twice_or_lost",
    ),
    Mutation(
        "an-object-created-over-another",
        "pipelines/storage/files.py",
        "target.hardlink_to(scratch)",
        "scratch.replace(target)",
        f"{UNIT}/storage/test_files.py::test_an_object_that_is_there_is_not_created_again",
    ),
    # Training and self-regulation
    Mutation(
        "an-epoch-repeated-after-a-kill",
        LOOP,
        "first, last = len(self.history), ",
        "first, last = max(len(self.history) - 1, 0), ",
        RESUMED,
    ),
    Mutation(
        "an-epoch-skipped-after-a-kill",
        LOOP,
        "first, last = len(self.history), ",
        "first, last = len(self.history) + bool(self.history), ",
        RESUMED,
    ),
    Mutation(
        "an-optimiser-that-forgets",
        "pipelines/models/checkpoint.py",
        "_restore(optimizer, load_file(folder / OPTIMIZER))",
        "load_file(folder / OPTIMIZER)",
        f"{UNIT}/run/test_run_directory.py::test_a_restored_checkpoint_trains_on_bit_for_bit",
    ),
    Mutation(
        "teacher-of-the-wrong-cycle",
        "pipelines/regulation/cycles.py",
        "teacher.remote(self.trial, cycle + 1)",
        "teacher.remote(self.trial, cycle)",
        TEACHERS,
    ),
    Mutation(
        "a-share-of-the-label-that-does-not-fall",
        "pipelines/regulation/cycles.py",
        "1 / (cycle + 1))",
        "0.5)",
        TEACHERS,
    ),
    Mutation(
        "a-record-written-over",
        "pipelines/regulation/ledger.py",
        "if known is None:",
        "if True:",
        f"{UNIT}/regulation/test_ledger.py::test_the_first_record_of_a_name_remains",
    ),
    Mutation(
        "shares-that-do-not-add-up",
        "pipelines/regulation/ledger.py",
        "(n * earlier.get(",
        "(earlier.get(",
        f"{UNIT}/regulation/test_soups.py::test_shares_of_a_blend_add_up_to_one",
    ),
    Mutation(
        "weights-that-changed-are-taken",
        "pipelines/models/weight_files.py",
        "!= weights.sha256",
        '== ""',
        f"{UNIT}/regulation/test_ledger.py::test_weights_that_changed_since_are_refused",
    ),
    # Relabelling
    Mutation(
        "ignored-pixels-take-the-teachers-class",
        REFINE,
        "torch.where(changes, guess",
        "torch.where(changes | ~is_given, guess",
        f"{UNIT}/dmlcsr/test_refine.py::test_confident_leaves_every_ignored_pixel_ignored",
    ),
    Mutation(
        "the-score-of-the-new-label",
        REFINE,
        "quality.add(given)",
        "quality.add(given_probabilities(policy.new_classes(old, given, strip), probs))",
        f"{UNIT}/dmlcsr/test_refine.py::test_the_score_is_of_the_label_before_whatever_it_becomes",
    ),
    Mutation(
        "the-label-before-stays",
        "pipelines/relabeling/actors.py",
        "encode_png(refined.label)",
        "sample.encoded_label",
        f"{PIPELINES}/relabeling/test_relabel.py::"
        "test_every_good_row_once_in_order_with_the_label_and_scores_of_a_plain_loop",
    ),
)


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the tracked files as they are now, for the time of a `with` block."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        for file in tracked_files():
            target = Path(name, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target)
        yield Path(name)


def run_tests(folder: Path, tests: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """pytest on some tests of a copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    command += [f"--timeout={SECONDS}", "--tb=line", *tests]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(folder)  # of Ray's workers too
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def is_caught(mutation: Mutation) -> bool:
    """Whether the test fails. Raises RuntimeError where it could not run, or something around it has failed."""
    with copied() as folder:
        (folder / mutation.file).write_text(mutation.mutated(folder))
        done = run_tests(folder, [mutation.caught_by])
    if done.returncode and f"FAILED {mutation.caught_by}" not in done.stdout:
        raise RuntimeError(f"{mutation.name}: {mutation.caught_by} did not run:\n{done.stdout}{done.stderr}")
    return done.returncode != 0


def main(names: Sequence[str]) -> int:
    unknown = set(names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        print(f"no such mutation: {', '.join(sorted(unknown))}; there are: {', '.join(m.name for m in MUTATIONS)}")
        return 2
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    for mutation in chosen:
        mutation.mutated()
    with copied() as folder:
        done = run_tests(folder, sorted({mutation.caught_by for mutation in chosen}))
    if done.returncode:
        print(f"the tests do not pass in the code as it is:\n{done.stdout}{done.stderr}")
        return 1
    print("mutation | caught by | seconds\n--- | --- | ---")
    survivors = 0
    for mutation in chosen:
        begin = time.monotonic()
        caught = is_caught(mutation)
        survivors += not caught
        told = mutation.caught_by if caught else f"SURVIVES {mutation.caught_by}"
        print(f"{mutation.name} | {told} | {time.monotonic() - begin:.0f}", flush=True)
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
