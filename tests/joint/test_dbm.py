"""The historic model: its energies are exact, and it learns, fills in and takes what is odd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mmray.joint.dbm import HIDDEN, Dbm, DbmConfig, Rbm, Visible

NUM_CLASSES, FEATURES, TAGS = 10, 24, 40
CONFIG = DbmConfig(FEATURES, TAGS, picture_hidden=48, text_hidden=48, joint_hidden=96)
SMALL = DbmConfig(5, 7, picture_hidden=6, text_hidden=4, joint_hidden=8)
Rows = tuple[Tensor, Tensor, Tensor, Tensor]


def rows(count: int, seed: int) -> Rows:
    """Features, counts of tags, whether there are tags, and the hidden class of each row."""
    world = torch.Generator().manual_seed(0)
    centres = torch.randn(NUM_CLASSES, FEATURES, generator=world)
    weights = torch.full((NUM_CLASSES, TAGS), 0.1)
    for k in range(NUM_CLASSES):
        weights[k, 3 * k : 3 * k + 3] = 3.0
    g = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, NUM_CLASSES, (count,), generator=g)
    noise = 2 * torch.randn(count, FEATURES, generator=g)
    features = (centres[classes] + noise) * torch.linspace(0.1, 5, FEATURES) + 3
    has_tags = torch.rand(count, generator=g) > 0.2
    drawn = torch.multinomial(weights[classes], 4, True, generator=g)
    tags = torch.zeros(count, TAGS).scatter_add(1, drawn, torch.ones(count, 4))
    return features, tags * has_tags[:, None], has_tags, classes


def new_model(data: Rows) -> Dbm:
    torch.manual_seed(0)
    model = Dbm(CONFIG)
    features, tags, _, _ = data
    model.set_statistics(features.mean(0), features.std(0), tags.sum(0))
    return model


def fit(model: Dbm, data: Rows, steps: int) -> None:
    features, tags, has_tags, _ = data
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1.5e-3 * (1 + math.cos(math.pi * step / steps))
        batch = torch.randint(0, len(features), (128,))
        losses = model(features[batch], tags[batch], has_tags[batch])
        sum(values.mean() for values in losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture(scope="module")
def data() -> Rows:
    return rows(2000, 1)


@pytest.fixture(scope="module")
def held_out() -> Rows:
    return rows(1000, 2)


@pytest.fixture(scope="module")
def trained(data: Rows) -> Dbm:
    model = new_model(data)
    fit(model, data, 700)
    return model.eval()


def accuracy(train: Tensor, labels: Tensor, test: Tensor, answers: Tensor) -> float:
    probe = LogisticRegression(C=0.1, max_iter=300).fit(train.numpy(), labels.numpy())
    return float(probe.score(test.numpy(), answers.numpy()))


def odd_rbm(visible: Visible) -> Rbm:
    torch.manual_seed(0)
    usual = 0.3 if visible == "binary" else 0.0
    rbm = Rbm(visible, 4, 3, words=3, visible_usual=usual, hidden_usual=0.2).double()
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.normal_()
    return rbm


def energies(rbm: Rbm, visible: Tensor) -> Tensor:
    """Energy of one state of the visible units with each of the hidden, from the definition."""
    values = []
    for states in itertools.product([0.0, 1.0], repeat=3):
        hidden = torch.tensor(states).double() - rbm.hidden_usual
        seen = visible - rbm.visible_usual
        bias = rbm.hidden_bias * (visible.sum() if rbm.visible == "words" else 1)
        energy = -(seen @ rbm.weight @ hidden) - bias @ hidden
        if rbm.visible == "gaussian":
            energy = energy + 0.5 * ((visible - rbm.visible_bias) ** 2).sum()
        else:
            energy = energy - rbm.visible_bias @ seen
        values.append(energy)
    return torch.stack(values)


@pytest.mark.parametrize("visible", ["gaussian", "binary", "words"])
def test_free_energy_sums_over_all_hidden_states(visible: Visible) -> None:
    rbm = odd_rbm(visible)
    states = torch.tensor([[0.0, 1, 1, 0], [2, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).double()
    expected = [-(-energies(rbm, state)).logsumexp(0) for state in states]
    torch.testing.assert_close(rbm.free_energy(states), torch.stack(expected))


@pytest.mark.parametrize("visible", ["gaussian", "binary", "words"])
def test_hidden_units_given_visible_ones(visible: Visible) -> None:
    rbm = odd_rbm(visible)
    state = torch.tensor([2.0, 0, 1, 0] if visible == "words" else [1.0, 0, 1, 1]).double()
    hidden = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).double()
    expected = (-energies(rbm, state)).softmax(0) @ hidden
    torch.testing.assert_close(rbm.hidden_logits(state[None]).sigmoid()[0], expected)


def test_words_given_hidden_units() -> None:
    """Over all documents of 3 words in their order, each word has the softmax's probability."""
    rbm = odd_rbm("words")
    hidden = torch.tensor([1.0, 0, 1]).double()
    documents = list(itertools.product(range(4), repeat=3))
    counts = torch.stack([torch.bincount(torch.tensor(d), minlength=4) for d in documents]).double()
    energy = -(counts @ rbm.weight @ (hidden - rbm.hidden_usual)) - counts @ rbm.visible_bias
    expected = (-energy).softmax(0) @ counts
    torch.testing.assert_close(rbm.visible_mean(hidden[None])[0], expected)


def test_gradient_is_that_of_contrastive_divergence() -> None:
    rbm = odd_rbm("binary")
    data = torch.tensor([[0.0, 1, 1, 0], [1, 0, 1, 0]]).double()
    torch.manual_seed(3)
    rbm.divergence(data, 1).sum().backward()
    torch.manual_seed(3)
    with torch.no_grad():
        up = rbm.hidden_logits(data).sigmoid()
        model = rbm.visible_mean(torch.bernoulli(up))
        far = [(v - 0.3, rbm.hidden_logits(v).sigmoid() - 0.2) for v in (model, data)]
        expected = far[0][0].T @ far[0][1] - far[1][0].T @ far[1][1]
    torch.testing.assert_close(rbm.weight.grad, expected)


def test_sparsity_moves_biases_towards_the_target() -> None:
    rbm = odd_rbm("binary")
    data = torch.rand(50, 4).double()
    rbm.sparsity_penalty(data, 0.2).mean().backward()
    expected = rbm.hidden_logits(data).sigmoid().mean(0) - 0.2
    torch.testing.assert_close(rbm.hidden_bias.grad, expected.detach())
    assert rbm.weight.grad is None


def test_learns(trained: Dbm, data: Rows, held_out: Rows) -> None:
    features, tags, has_tags, _ = held_out
    before = new_model(data).reconstruction_errors(features, tags)
    after = trained.reconstruction_errors(features, tags)
    assert after["picture"].mean() < 0.5 * before["picture"].mean()
    assert after["text"][has_tags].mean() < 0.6 * before["text"][has_tags].mean()


def test_joint_layer_knows_more_than_either_pathway(
    trained: Dbm, data: Rows, held_out: Rows
) -> None:
    both, both_test = (trained.infer(x[0], x[1]) for x in (data, held_out))
    pictures, pictures_test = (trained.infer(x[0], None) for x in (data, held_out))
    tags, tags_test = (trained.infer(None, x[1]) for x in (data, held_out))
    joint = accuracy(both["joint"], data[3], both_test["joint"], held_out[3])
    name = "picture_hidden2"
    by_picture = accuracy(pictures[name], data[3], pictures_test[name], held_out[3])
    by_tags = accuracy(tags["text_hidden2"], data[3], tags_test["text_hidden2"], held_out[3])
    assert joint > max(by_picture, by_tags) + 0.02
    assert min(by_picture, by_tags) > 0.5


def nats(probabilities: Tensor, tags: Tensor) -> float:
    """Cross-entropy of a tag."""
    return float(-(tags * probabilities.clamp_min(1e-9).log()).sum() / tags.sum())


def test_predicts_tags_from_pictures(trained: Dbm, data: Rows, held_out: Rows) -> None:
    features, tags, has_tags, _ = held_out
    found = trained.tag_probabilities(features)
    torch.testing.assert_close(found.sum(1), torch.ones(len(found)))
    prior = (data[1].sum(0) / data[1].sum()).expand_as(found)
    assert nats(found, tags) < nats(prior, tags) - 0.3

    def hits(p: Tensor) -> float:
        return float((tags.gather(1, p.argmax(1, keepdim=True)) > 0)[has_tags].float().mean())

    assert hits(found) > 3 * hits(prior)


def test_given_tags_change_what_is_predicted(trained: Dbm, held_out: Rows) -> None:
    features = held_out[0][:50]
    given = torch.zeros(50, TAGS)
    given[:, 4] = 1
    before, after = trained.tag_probabilities(features), trained.tag_probabilities(features, given)
    assert after[:, 3:6].sum(1).mean() > before[:, 3:6].sum(1).mean() + 0.2
    nothing = trained.tag_probabilities(features, torch.zeros(50, TAGS))
    torch.testing.assert_close(nothing, before)


def test_samples_documents(trained: Dbm, held_out: Rows) -> None:
    features, tags = held_out[0][:200], held_out[1][:200]
    seeds = [torch.Generator().manual_seed(s) for s in (0, 0, *range(1, 20))]
    first, again, *more = (trained.sample_tags(features, 3, g) for g in seeds)
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, more[0])
    assert bool((first.sum(1) == CONFIG.words).all())
    mean = torch.stack([first, *more]).mean(0) / CONFIG.words
    smoothed = 0.9 * mean + 0.1 / TAGS
    prior = (tags.sum(0) / tags.sum()).expand_as(smoothed)
    assert nats(smoothed, tags) < nats(prior, tags)


def test_thinks_of_a_picture_from_tags(trained: Dbm, data: Rows, held_out: Rows) -> None:
    features, tags, has_tags, _ = held_out
    mean, std = data[0].mean(0), data[0].std(0)
    pictures = trained.picture_features(tags)
    assert pictures.shape == features.shape
    errors = ((pictures - features) / std).square().mean(1)[has_tags].mean()
    assert errors < ((features - mean) / std).square().mean(1)[has_tags].mean()


def test_rows_may_lack_either_side() -> None:
    torch.manual_seed(0)
    model = Dbm(SMALL)
    features, tags = torch.randn(4, 5), torch.randint(1, 4, (4, 7))
    has_picture = torch.tensor([True, False, True, True])
    has_tags = torch.tensor([True, True, False, True])
    mixed = model.infer(features, tags, has_picture=has_picture, has_tags=has_tags)
    assert list(mixed) == list(HIDDEN)
    both, pictures, words = (
        model.infer(x, t) for x, t in [(features, tags), (features, None), (None, tags)]
    )
    sizes = {"picture_hidden1": 6, "picture_hidden2": 6, "text_hidden1": 4, "text_hidden2": 4}
    for name, values in mixed.items():
        assert values.shape == (4, sizes.get(name, 8))
        expected = torch.stack([both[name][0], words[name][1], pictures[name][2], both[name][3]])
        torch.testing.assert_close(values, expected)
    # What a missing side holds is not looked at.
    features[1], tags[2] = torch.nan, 0
    again = model.infer(features, tags, has_picture=has_picture, has_tags=has_tags)
    torch.testing.assert_close(again["joint"], mixed["joint"])


@pytest.mark.parametrize("tagged", [True, False])
def test_all_parameters_have_gradients(tagged: bool) -> None:
    model = Dbm(SMALL)
    losses = model(torch.randn(3, 5), torch.ones(3, 7), torch.full((3,), tagged))
    assert list(losses) == ["picture1", "picture2", "text1", "text2", "joint"]
    assert all(values.shape == (3,) for values in losses.values())
    sum(values.mean() for values in losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        sees_tags = name.startswith(("text", "joint"))
        assert bool(parameter.grad.abs().sum() > 0) == (tagged or not sees_tags), name


def test_loss_of_an_example_does_not_depend_on_the_others(data: Rows) -> None:
    """So the mean over workers is the mean over the batch; without the samples, exactly."""
    model = new_model(data)
    features, tags, has_tags = data[0][:8], data[1][:8], data[2][:8]
    hidden = model.infer(features, tags)["picture_hidden1"]
    whole = model.picture2.sparsity_penalty(hidden, 0.2)
    halves = [model.picture2.sparsity_penalty(part, 0.2) for part in hidden.split(4)]
    torch.testing.assert_close(torch.cat(halves), whole)
    losses = model(features, tags, has_tags)
    assert bool((losses["joint"][~has_tags] == 0).all())


def test_one_seed_one_result(data: Rows) -> None:
    first, second = new_model(data), new_model(data)
    for model in (first, second):
        torch.manual_seed(5)
        fit(model, data, 3)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_odd_rows_stay_finite() -> None:
    model = Dbm(SMALL)
    features = torch.full((4, 5), 7.0)
    features[3] = 1e30
    model.set_statistics(torch.full((5,), 7.0), torch.zeros(5), torch.zeros(7))
    tags = torch.zeros(4, 7)
    tags[1, 2], tags[2], tags[3, 0] = 10_000, 10_000, 1
    losses = model(features, tags, torch.ones(4, dtype=torch.bool))
    sum(values.mean() for values in losses.values()).backward()
    found = [*losses.values(), *(p.grad for p in model.parameters())]
    found += [*model.infer(features, tags).values(), model.tag_probabilities(features, tags)]
    found += [model.picture_features(tags), model.sample_tags(features, 2)]
    assert all(bool(values.isfinite().all()) for values in found)
    assert bool((losses["text1"][0] == 0).all())
