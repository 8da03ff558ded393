"""Figures are scikit-learn's on the same predictions, however the predictions are cut into batches."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from graftwork.training.decisions import decided
from graftwork.training.judging import Agreement, ClassJudge, LabelJudge, NumberJudge
from graftwork.training.metrics import Calibration, Scores, among_first, area

UNTIMED = settings(deadline=None, max_examples=80)
TIGHT = 1e-10  # sums of at most 40 numbers around 1, in another order


def in_batches(draw, add, *arrays):
    """Give arrays to a judge in batches that hypothesis chooses."""
    size = len(arrays[0])
    cuts = sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=3))})
    for a, b in pairwise(cuts):
        add(*(array[a:b] for array in arrays))


def weights_of(draw, size, least=1):
    """Return weights, sometimes all 1; with `least` of 0 some may be nothing."""
    weights = draw(st.lists(st.integers(least, 4), min_size=size, max_size=size)) if draw(st.booleans()) else [1] * size
    return np.array(weights, np.float64) / 2


def undefined_as_none(function, *args, **options):
    """Return a figure of scikit-learn, None where it says NaN or refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = float(function(*args, **options))
        except ValueError:
            return None
    return None if np.isnan(found) else found


def agrees(found, expected):
    if expected is None or found is None:
        assert found is None and expected is None
    else:
        assert found == pytest.approx(expected, rel=TIGHT, abs=TIGHT)


@st.composite
def classified(draw):
    """Labels, probabilities with many ties, and weights; classes that never occur and single samples among them."""
    size, classes = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size)))
    parts = st.lists(st.integers(0, 4), min_size=classes, max_size=classes).filter(any)
    raw = np.array(draw(st.lists(parts, min_size=size, max_size=size)), np.float64)
    return labels, raw / raw.sum(axis=1, keepdims=True), weights_of(draw, size), classes


@UNTIMED
@given(classified(), st.data())
def test_classes(case, data):
    """Accuracy, top-k, log loss, F1, AUC, per-class figures and the confusion matrix are scikit-learn's."""
    labels, p, weights, classes = case
    judge = ClassJudge([str(k) for k in range(classes)], np.ones(classes, bool), top=2, bins=15)
    in_batches(data.draw, judge.add, labels, p, weights)

    found = judge.figures("out", "probabilities")

    every, said, w = list(range(classes)), p.argmax(1), {"sample_weight": weights}
    agrees(found.metrics["accuracy"], sk.accuracy_score(labels, said, **w))
    agrees(found.metrics["log_loss"], sk.log_loss(labels, p, labels=every, **w))
    agrees(found.metrics["f1_macro"], sk.f1_score(labels, said, average="macro", **w))
    agrees(found.metrics["f1_weighted"], sk.f1_score(labels, said, average="weighted", **w))
    if classes > 2:
        agrees(found.metrics["top_2"], undefined_as_none(sk.top_k_accuracy_score, labels, p, k=2, labels=every, **w))
        auc = undefined_as_none(sk.roc_auc_score, labels, p, multi_class="ovr", labels=every, **w)
    else:
        assert "top_2" not in found.metrics
        auc = undefined_as_none(sk.roc_auc_score, labels, p[:, 1], **w)
    agrees(found.metrics["auc"], auc)
    assert set(found.reasons) == {name for name, value in found.metrics.items() if value is None}
    np.testing.assert_allclose(found.confusion, sk.confusion_matrix(labels, said, labels=every, **w))
    rows = sk.precision_recall_fscore_support(labels, said, labels=every, zero_division=np.nan, **w)
    for k, row in enumerate(found.per_class):
        for name, expected in zip(("precision", "recall"), rows, strict=False):
            agrees(getattr(row, name), None if np.isnan(expected[k]) else expected[k])
        assert row.support == pytest.approx(weights[labels == k].sum())
        agrees(row.auc, undefined_as_none(sk.roc_auc_score, labels == k, p[:, k], **w))


@UNTIMED
@given(st.data())
def test_labels(data):
    """Accuracy, exact matches, log loss, F1 and AUC of independent labels are scikit-learn's, those of single labels averaged."""
    size, count = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 4))
    bits = st.lists(st.booleans(), min_size=count, max_size=count)
    labels = np.array(data.draw(st.lists(bits, min_size=size, max_size=size)))
    eighths = st.lists(st.integers(0, 8), min_size=count, max_size=count)
    p = np.array(data.draw(st.lists(eighths, min_size=size, max_size=size))) / 8
    weights = weights_of(data.draw, size)
    judge = LabelJudge([str(k) for k in range(count)], bins=15)
    in_batches(data.draw, judge.add, labels, p, weights)

    found = judge.figures("out", "sigmoid").metrics

    said, w = p > 0.5, {"sample_weight": weights}
    agrees(found["accuracy"], np.mean([sk.accuracy_score(labels[:, k], said[:, k], **w) for k in range(count)]))
    agrees(found["exact_match"], sk.accuracy_score(labels, said, **w))
    each = [sk.log_loss(labels[:, k], p[:, k], labels=[False, True], **w) for k in range(count)]
    agrees(found["log_loss"], np.mean(each))
    agrees(found["f1_macro"], sk.f1_score(labels, said, average="macro", zero_division=0, **w))
    if labels.any():
        agrees(found["f1_weighted"], sk.f1_score(labels, said, average="weighted", zero_division=0, **w))
    else:
        assert found["f1_weighted"] is None
    agrees(found["auc"], undefined_as_none(sk.roc_auc_score, labels, p, average="macro", **w))


@UNTIMED
@given(st.data())
def test_numbers(data):
    """MAE, MSE and R² are scikit-learn's, of constant labels and single samples too."""
    size, count = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 3))
    eighths = st.lists(st.integers(-40, 40), min_size=count, max_size=count)
    labels, said = (np.array(data.draw(st.lists(eighths, min_size=size, max_size=size))) / 8 for _ in range(2))
    if data.draw(st.booleans()):
        labels = np.broadcast_to(labels[:1], labels.shape)
    weights = weights_of(data.draw, size)
    judge = NumberJudge(count)
    in_batches(data.draw, judge.add, labels, said, weights)

    found = judge.figures("out", "regression").metrics

    agrees(found["mae"], sk.mean_absolute_error(labels, said, sample_weight=weights))
    agrees(found["mse"], sk.mean_squared_error(labels, said, sample_weight=weights))
    agrees(found["r2"], undefined_as_none(sk.r2_score, labels, said, sample_weight=weights))


def test_explained_variance_far_from_zero():
    """Labels around 10⁸ in small batches: what subtracting two sums of squares would lose is kept."""
    rng = np.random.default_rng(0)
    labels = 1e8 + rng.normal(size=(1000, 1))
    said = labels + 0.1 * rng.normal(size=(1000, 1))
    judge = NumberJudge(1)
    for first in range(0, 1000, 7):
        judge.add(labels[first : first + 7], said[first : first + 7], np.ones(len(labels[first : first + 7])))

    assert judge.figures("out", "regression").metrics["r2"] == pytest.approx(sk.r2_score(labels, said), rel=1e-9)


@UNTIMED
@given(classified(), st.data())
def test_samples_of_weight_nothing_are_not_there(case, data):
    """Leaving samples out and giving them the weight 0 give the same figures of everything."""
    labels, p, _, classes = case
    weights = weights_of(data.draw, len(labels), least=0)
    kept = weights > 0
    pairs = []
    for chosen in (slice(None), kept):
        judges = (
            ClassJudge([str(k) for k in range(classes)], np.ones(classes, bool), top=2, bins=15),
            LabelJudge([str(k) for k in range(classes)], bins=15),
            NumberJudge(classes),
        )
        judges[0].add(labels[chosen], p[chosen], weights[chosen])
        judges[1].add(np.eye(classes, dtype=bool)[labels][chosen], p[chosen], weights[chosen])
        judges[2].add(np.eye(classes)[labels][chosen], p[chosen], weights[chosen])
        pairs.append([judge.figures("out", "probabilities") for judge in judges])

    for with_nothing, without in zip(*pairs, strict=True):
        for name, figure in without.metrics.items():
            agrees(with_nothing.metrics[name], figure)
        assert with_nothing.reasons == without.reasons
        for row, other in zip(with_nothing.per_class, without.per_class, strict=True):
            agrees(row.f1, other.f1)
            agrees(row.auc, other.auc)


@UNTIMED
@given(classified(), st.integers(1, 20), st.data())
def test_calibration(case, bins, data):
    """The reliability curve is scikit-learn's, and the calibration error is the formula, written out."""
    labels, p, weights, _ = case
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    plain, weighted = Calibration(bins), Calibration(bins)
    in_batches(data.draw, plain.add, confidence, right, np.ones(len(labels)))
    in_batches(data.draw, weighted.add, confidence, right, weights)

    share, mean = calibration_curve(right, confidence, n_bins=bins, pos_label=True)
    np.testing.assert_allclose([each.accuracy for each in plain.curve()], share)
    np.testing.assert_allclose([each.confidence for each in plain.curve()], mean)
    error = 0.0
    edges = np.linspace(0, 1, bins + 1)
    for m in range(bins):
        inside = (confidence > edges[m]) & (confidence <= edges[m + 1]) | ((m == 0) & (confidence == 0))
        if inside.any():
            accuracy = np.average(right[inside], weights=weights[inside])
            sure = np.average(confidence[inside], weights=weights[inside])
            error += weights[inside].sum() / weights.sum() * abs(accuracy - sure)
    assert weighted.error() == pytest.approx(error, abs=1e-12)


def test_calibration_by_hand():
    """Four predictions of confidence 0.75, half of them right, are off by a quarter; two of 1, right, are not: (4 · ¼ + 2 · 0) / 6."""
    calibration = Calibration(4)
    right = np.array([True, False, True, False, True, True])

    calibration.add(np.array([0.75, 0.75, 0.75, 0.75, 1, 1]), right, np.ones(6))

    assert calibration.error() == pytest.approx(1 / 6)
    assert [(each.low, each.high, each.weight) for each in calibration.curve()] == [(0.5, 0.75, 4), (0.75, 1, 2)]


@UNTIMED
@given(classified(), st.data())
def test_agreement(case, data):
    """Cohen's kappa of two models is scikit-learn's, and None where both always say the same."""
    labels, p, weights, classes = case
    other = np.eye(classes)[labels]
    agreement = Agreement("classes", classes)
    in_batches(data.draw, agreement.add, decided("classes", other), decided("classes", p), weights)

    why = {}
    found = agreement.figures(why)

    said = p.argmax(axis=1)
    agrees(found["same"], sk.accuracy_score(labels, said, sample_weight=weights))
    agrees(found["kappa"], undefined_as_none(sk.cohen_kappa_score, labels, said, sample_weight=weights))
    assert ("kappa" in why) == (found["kappa"] is None)


@UNTIMED
@given(st.data())
def test_correlation(data):
    """The correlation of two models' numbers is NumPy's, and None where one of them is constant."""
    size = data.draw(st.integers(1, 30))
    numbers = st.lists(st.integers(-20, 20), min_size=size, max_size=size)
    a, b = (np.array(data.draw(numbers), np.float64)[:, None] / 4 for _ in range(2))
    agreement = Agreement("numbers", 1)
    in_batches(data.draw, agreement.add, a, b, np.ones(size))

    found = agreement.figures({})["correlation"]

    if len(set(a.ravel())) == 1 or len(set(b.ravel())) == 1:
        assert found is None
    else:
        assert found == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-9)


def test_a_constant_model_has_no_correlation_whatever_rounds():
    """A tenth, again and again in batches, is still the same number."""
    agreement = Agreement("numbers", 1)
    for size in (3, 7, 1):
        agreement.add(np.full((size, 1), 0.1), np.arange(size)[:, None].astype(float), np.full(size, 0.3))

    why = {}
    assert agreement.figures(why) == {"correlation": None}
    assert why["correlation"] == "a model always gives the same"


def test_equal_scores_are_told_apart_as_scikit_learn_does():
    """Of equal scores the later class comes first."""
    labels, p = np.array([0, 1, 2]), np.full((3, 3), 1 / 3)

    found = among_first(labels, p, 1)

    assert found.tolist() == [False, False, True]
    assert found.mean() == pytest.approx(sk.top_k_accuracy_score(labels, p, k=1))


def test_scores_that_are_too_many_are_dropped():
    """Memory stays bounded, and nothing is said of the area."""
    scores = Scores(most_bytes=1000)
    for _ in range(10):
        scores.add(np.zeros(10, np.int64), np.zeros((10, 3)), np.ones(10))

    assert scores.dropped and scores.areas() == []


def test_area_by_hand():
    """Of four pairs one is the right way round, two are ties and one is wrong: (1 + 2 · ½) / 4."""
    positive = np.array([True, True, False, False])

    assert area(positive, np.array([0.5, 0.2, 0.2, 0.5]), np.ones(4)) == pytest.approx((1 + 2 * 0.5) / 4)
    assert area(positive, np.array([3.0, 2, 1, 0]), np.ones(4)) == 1
    assert area(np.array([True]), np.array([0.3]), np.ones(1)) is None


def test_classes_that_a_model_does_not_know():
    """They count as wrong, and the log loss, which would be infinite, is not given."""
    judge = ClassJudge(["cat", "dog", "fox"], np.array([True, True, False]), top=5, bins=15)
    judge.add(np.array([0, 2]), np.array([[0.9, 0.1, 0], [0.5, 0.5, 0]]), np.ones(2))

    found = judge.figures("out", "probabilities")

    assert found.metrics["accuracy"] == 0.5
    assert found.metrics["log_loss"] is None
    assert found.reasons["log_loss"] == "1 sample is of a class that the model does not know"
    assert found.reasons["auc"] == "no samples with and without dog"
