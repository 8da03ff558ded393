"""The model card of a merge: what the Hub reads of it, and that licences are never guessed."""

import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from test_sources import adapter, model, the_hub  # noqa: F401

import graftwork as gw

MIT = "---\nlicense: mit\n---\n# Mine\n"


def card(folder):
    """Return the front matter, the body and the recipe of a card."""
    text = (folder / "README.md").read_text()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    recipe = re.search(r"```yaml\n(.*?)```", body, re.DOTALL)[1]
    documents = list(yaml.safe_load_all(recipe))
    return yaml.safe_load(front), body, documents if len(documents) > 1 else documents[0]


def test_a_card_says_what_was_merged_and_how(tmp_path):
    """The front matter as the Hub reads it; the recipe runs again beside the sources and gives the same."""
    for name in ("a", "b", "base"):
        model(tmp_path / name, text=MIT)
    sources = [tmp_path / "a", tmp_path / "b"]
    out = gw.merge(sources, method="ties", base=tmp_path / "base", density=0.5, output=tmp_path / "out")

    front, body, recipe = card(out)
    assert front == {
        "base_model": ["a", "b", "base"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "mit",
        "tags": ["merge", "graftwork", "ties"],
    }
    assert ModelCard.load(out / "README.md").data.license == "mit"
    assert "| `base` | base | mit |" in body
    (tmp_path / "again.yaml").write_text(yaml.safe_dump({**recipe, "outputs": {"merged": "again"}}))
    gw.run(tmp_path / "again.yaml")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    assert card(tmp_path / "again")[0] == front


CHAINS = {
    "steps": """
models: {a: a, b: b, c: c}
steps:
  one: {merge: {models: [a, b], method: linear}}
  two: {merge: {models: [one, c], base: a, method: ties}}
  three: {merge: {models: [one, two], method: slerp, options: {t: 0.3}}}
outputs: {three: out}
""",
    "documents": """
name: one
merge_method: linear
models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 1}}]
---
name: two
merge_method: ties
base_model: a
models: [{model: one, parameters: {weight: 1}}, {model: c, parameters: {weight: 1}}]
---
merge_method: slerp
base_model: one
models: [{model: two}]
parameters: {t: 0.3}
""",
}


@pytest.mark.parametrize("kind", CHAINS)
def test_a_card_tells_what_made_on_the_way_was_made_of(tmp_path, kind):
    """Sources and licences are those of the files there are; the recipe has every step, and gives the same again."""
    for name in "abc":
        model(tmp_path / name, text=MIT if name != "b" else "---\nlicense: apache-2.0\n---\n")
    (tmp_path / "chain.yaml").write_text(CHAINS[kind])
    output = {"output": tmp_path / "out"} if kind == "documents" else {}
    gw.run(tmp_path / "chain.yaml", **output)

    front, body, recipe = card(tmp_path / "out")

    assert front["base_model"] == ["a", "b", "c"]
    assert front["license"] == "other"
    assert "`a`: mit; `b`: apache-2.0; `c`: mit." in body
    assert "| `c` | model of `two` | mit |" in body
    again = tmp_path / "again.yaml"
    if kind == "steps":
        again.write_text(yaml.safe_dump({**recipe, "outputs": {"merged": "again"}}))
        gw.run(again)
    else:
        again.write_text(yaml.safe_dump_all(recipe))
        gw.run(again, output=tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "out" / "model.safetensors"
    ).read_bytes()
    assert card(tmp_path / "again")[0] == front


@pytest.mark.parametrize(
    ("texts", "license_", "said"),
    [
        (["---\nlicense: apache-2.0\n---\n"] * 2, "apache-2.0", None),
        ([MIT, "---\nlicense: apache-2.0\n---\n"], "other", "`a`: mit; `b`: apache-2.0"),
        ([MIT, "# no front matter"], "other", "`a`: mit; `b`: not stated"),
        ([MIT, ""], "other", "`b`: not stated"),
        ([MIT, "---\nlicense: [\n---\n"], "other", "`b`: not stated"),
        ([MIT, "---\n- license: mit\n---\n"], "other", "`b`: not stated"),
        ([MIT, "---\nlicense: mit"], "other", "`b`: not stated"),
        (["---\nlicense: other\nlicense_name: llama3\n---\n"] * 2, "other", "`a`: other (llama3)"),
        (["---\nlicense: [mit, gpl-3.0]\n---\n"] * 2, "other", "`a`: mit, gpl-3.0"),
    ],
)
def test_licences_are_rolled_up_and_never_guessed(tmp_path, texts, license_, said):
    """One licence where all sources state that one; else what each says."""
    for name, text in zip("ab", texts, strict=True):
        model(tmp_path / name, text=text)
    front, body, _ = card(gw.merge([tmp_path / "a", tmp_path / "b"], output=tmp_path / "out"))
    assert front["license"] == license_
    assert ("all of which may bind the result" in body) == (said is not None)
    assert said is None or said in body


def test_models_of_the_hub_and_adapters_are_named(tmp_path, the_hub):  # noqa: F811
    """By organisation and commit where the Hub's cache tells, each adapter with a licence of its own."""
    model(tmp_path / "local", text=MIT)
    adapter(tmp_path / "lora")
    out = gw.merge(["hf://ORG/model+lora", "local"], output="out")

    front, body, recipe = card(out)
    assert front["base_model"] == ["ORG/model", "lora", "local"]
    assert "| `lora` | adapter of `model+lora` | not stated |" in body
    assert recipe["models"] == {"model+lora": "hf://ORG/model@0123456789abcdef+lora", "local": "local"}


def test_a_name_in_the_configuration_is_believed_where_the_directory_is_called_so(tmp_path):
    """Elsewhere it is that of an ancestor."""
    for name, said in (("copy", "ORG/copy"), ("tuned", "ORG/ancestor")):
        model(tmp_path / name)
        (tmp_path / name / "config.json").write_text(f'{{"_name_or_path": "{said}"}}')
    front, *_ = card(gw.merge([tmp_path / "copy", tmp_path / "tuned"], output=tmp_path / "out"))
    assert front["base_model"] == ["ORG/copy", "tuned"]


def test_conversions_have_no_card_and_cards_are_not_carried(tmp_path):
    """A card speaks of one model."""
    source = model(tmp_path / "a", text=MIT)
    gw.convert(source, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out" / "README.md").exists()
    shutil.rmtree(tmp_path / "out")
