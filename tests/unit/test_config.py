import pickle
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.config import Recipe, load_recipe, validate
from llmrec.config.registry import TOKENIZERS
from llmrec.errors import UserError
from llmrec.yaml_files import apply_overrides, parse_yaml, read_yaml

MINIMAL = {"name": "r", "data": {"card": "movielens-100k"}}


def error_of(call, *args):
    with pytest.raises(UserError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_key_names_the_nearest_at_every_depth():
    message = error_of(validate, Recipe, MINIMAL | {"sft": {"lora": {"rnk": 4}}, "evl": {}}, "r.yaml")
    assert "r.yaml" in message
    assert "unknown key 'sft.lora.rnk' (did you mean 'rank'?)" in message
    assert "unknown key 'evl' (did you mean 'eval'?)" in message


def test_an_unknown_key_without_a_near_one_lists_the_known_ones():
    message = error_of(validate, Recipe, MINIMAL | {"track": {"zzz": 1}}, "r.yaml")
    assert "unknown key 'track.zzz' (known: report_to)" in message


def test_all_errors_are_reported_at_once():
    tree = {"name": "r", "data": {}, "sft": {"lr": -1, "mode": "qlra"}, "decode": {"width": 2.5}}
    message = error_of(validate, Recipe, tree, "r.yaml")
    for key in ("data.card: required", "sft.lr", "sft.mode", "decode.width"):
        assert key in message


def test_width_must_cover_the_largest_cutoff():
    message = error_of(validate, Recipe, MINIMAL | {"decode": {"width": 5}, "eval": {"k": [10]}}, "r.yaml")
    assert "decode.width=5 is below the largest eval.k=10" in message


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "a b"])
def test_a_recipe_name_is_a_plain_folder_name(name):
    assert "name" in error_of(validate, Recipe, MINIMAL | {"name": name}, "r.yaml")


def test_duplicate_keys_are_refused_with_their_line():
    message = error_of(parse_yaml, "sft:\n  lr: 1\n  lr: 2\n", "r.yaml")
    assert "'lr' is written twice" in message
    assert "line 3" in message


@pytest.mark.parametrize(
    "text", ["a: [1", "a: !!python/object/apply:os.system ['true']", "\x00", "a: 2001-99-99", "{[1]: 2}"]
)
def test_yaml_beyond_plain_data_is_a_user_error(text):
    assert "r.yaml: not valid YAML" in error_of(parse_yaml, text, "r.yaml")


def test_files_that_hold_no_mapping_or_no_text_are_named(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("- 1\n")
    assert f"{path}: expected a mapping of keys, found list" in error_of(read_yaml, path)
    path.write_bytes(b"\xff\xfe\xfa")
    assert f"{path}: cannot be read" in error_of(read_yaml, path)
    assert "cannot be read" in error_of(read_yaml, tmp_path)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.5e-4", "2e3", "-1e2"])
def test_exponents_are_numbers(text):
    assert parse_yaml(text, "x") == float(text)


def test_overrides_replace_values_of_any_kind_and_leave_the_source_alone():
    tree = {"sft": {"lr": 1, "epochs": 2}, "eval": {"k": [1]}}
    merged = apply_overrides(tree, ["sft.lr=1e-4", "eval.k=[5, 10]", "data.card=x", "parent=", "a.b.c=true"])
    assert merged["sft"] == {"lr": 1e-4, "epochs": 2}
    assert merged["eval"] == {"k": [5, 10]}
    assert merged["data"] == {"card": "x"}
    assert merged["parent"] is None
    assert merged["a"] == {"b": {"c": True}}
    assert tree == {"sft": {"lr": 1, "epochs": 2}, "eval": {"k": [1]}}


@pytest.mark.parametrize("text", ["sft.lr", "=1", ""])
def test_a_malformed_override_is_explained(text):
    assert "write key.sub=value" in error_of(apply_overrides, {}, [text])


def test_the_suite_gives_defaults_that_the_recipe_overrides(tmp_path):
    suite = tmp_path / "mine.yaml"
    suite.write_text("k: [3]\nbootstrap: 7\n")
    recipe = load_recipe("quickstart", [f"eval.suite={suite}"])
    assert (recipe.eval.k, recipe.eval.bootstrap) == ([3], 7)
    recipe = load_recipe("quickstart", [f"eval.suite={suite}", "eval.k=[2]"])
    assert (recipe.eval.k, recipe.eval.bootstrap) == ([2], 7)


def test_a_recipe_is_found_by_path_and_named_after_its_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("data: {card: movielens-100k}\n")
    assert load_recipe(str(path)).name == "mine"


def test_a_resolved_recipe_reads_back_as_itself():
    recipe = load_recipe("quickstart")
    assert validate(Recipe, recipe.model_dump(mode="json"), "x") == recipe


KEYS = st.text(string.ascii_lowercase, min_size=1, max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "other"]), VALUES, max_size=6))
def test_any_mapping_is_a_recipe_or_a_one_line_user_error(tree):
    try:
        validate(Recipe, tree, "r.yaml")
    except UserError as error:
        assert str(error).startswith("r.yaml: ")
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60))
def test_any_text_parses_or_is_a_one_line_user_error(text):
    try:
        parse_yaml(text, "r.yaml")
    except UserError as error:
        assert "\n" not in str(error)


@settings(deadline=None, max_examples=50)
@given(st.lists(KEYS, min_size=1, max_size=4), st.integers())
def test_an_override_sets_exactly_its_key(path, value):
    node = apply_overrides({}, [f"{'.'.join(path)}={value}"])
    for part in path:
        assert list(node) == [part]
        node = node[part]
    assert node == value


@pytest.mark.parametrize("kind", TOKENIZERS.shipped)
def test_any_tokenizer_can_be_asked_for_on_the_command_line(kind):
    named = {"index": ["ids.quantizer.path=x.json"], "kept": ["ids.quantizer.run=yesterday"]}.get(kind, [])
    assert load_recipe("beauty-tiny", [f"ids.quantizer.kind={kind}", *named]).ids.quantizer.kind == kind


def test_another_kind_keeps_the_settings_it_shares():
    quantizer = load_recipe("beauty-tiny", ["ids.quantizer.kind=vq"]).ids.quantizer
    assert quantizer.model_dump() == {"kind": "vq", "codes": 256, "iterations": 25}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ids.quantizer.kind=rqvea", "ids.quantizer.kind: no 'rqvea' (did you mean 'rqvae'?)"),
        ("sft.learning_rate=1", "unknown key 'sft.learning_rate' (did you mean 'sft.lr'?)"),
        (
            "sft.per_device_train_batch_size=1",
            "'sft.per_device_train_batch_size' (did you mean 'sft.batch'?)",
        ),
        ("sft.num_train_epochs=1", "unknown key 'sft.num_train_epochs' (did you mean 'sft.epochs'?)"),
        (
            "ids.quantizer.iteration=4",
            "unknown key 'ids.quantizer.iteration' (did you mean 'ids.quantizer.iterations'?)",
        ),
        ("ids.inputs=[vectors]", "inputs names vectors, but vectors has no file"),
        ("ids.fusion.weights=[1, 2, 3]", "fusion.weights needs a number for each of text"),
    ],
)
def test_errors_name_key_and_remedy(override, message):
    with pytest.raises(UserError) as error:
        load_recipe("beauty-tiny", [override])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_can_be_sent_to_another_process():
    recipe = load_recipe("beauty-tiny", ["collaborative.sasrec_ce.epochs=3"])
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe and again.model_dump() == recipe.model_dump()
    assert again.collaborative.sasrec_ce.epochs == 3


def test_a_description_is_left_out_where_the_data_is_another(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("interactions: {path: log.csv, columns: {user: u, item: i}}\n")
    assert load_recipe("quickstart").description.startswith("MovieLens")
    assert load_recipe("quickstart", [f"data.card={mine}"]).description == ""
    assert load_recipe("quickstart", [f"data={{card: {mine}}}"]).description == ""
    assert load_recipe("quickstart", ["data.card=movielens-100k"]).description.startswith("MovieLens")
    assert load_recipe("quickstart", [f"data.card={mine}", "description=my shop"]).description == "my shop"


def test_paths_of_a_recipe_are_absolute_and_names_stay_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMREC_RUNS", "runs")
    for folder in ("runs/before", "bases/mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/before/recipe.yaml").touch()
    given = ["data.card=cards/shop.yaml", "data.root=dump", "ids.vectors=v.npy", "base.model=bases/mine"]
    given += ["parent=before", "sft.start=before", "prompts=[{task: sequential}, {task: own/task.yaml}]"]
    recipe = load_recipe("quickstart", given)
    assert recipe.data.card == f"{tmp_path}/cards/shop.yaml" and recipe.data.root == f"{tmp_path}/dump"
    assert recipe.ids.vectors == f"{tmp_path}/v.npy" and recipe.base.model == f"{tmp_path}/bases/mine"
    assert recipe.parent == recipe.sft.start == f"{tmp_path}/runs/before"
    assert [entry.task for entry in recipe.prompts] == ["sequential", f"{tmp_path}/own/task.yaml"]
    names = load_recipe("quickstart", ["base.model=Qwen/Qwen3-0.6B", "parent=absent"])
    assert (names.data.card, names.base.model, names.parent) == (
        "movielens-100k",
        "Qwen/Qwen3-0.6B",
        "absent",
    )
    assert names.ids.encoder.model.startswith("pypi:")


def test_values_of_stage_keys_do_not_depend_on_the_folder(tmp_path, monkeypatch):
    given = ["data.card=shop.yaml", "ids.vectors=v.npy", "ids.quantizer={kind: index, path: own.index.json}"]
    values = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        recipe = load_recipe("beauty-tiny", given)
        values.append({key: recipe.value_at(key, by_content=True) for key in ("data", "ids", "eval")})
        assert recipe.value_at("data.card") == str(tmp_path / name / "shop.yaml")
    assert values[0] == values[1]
    assert values[0]["data"]["card"] == "shop.yaml"
    assert values[0]["ids"]["quantizer"]["path"] == "own.index.json"


LOG = "interactions: {path: log.csv, columns: {user: u, item: i}}\n"


def resolved(folder, card, capsys, *overrides):
    """Baselines and tilt of a recipe on a card, and what was printed on the way."""
    from llmrec.config import recipe as module

    module._notify.cache_clear()
    (folder / "own.yaml").write_text(LOG + card)
    (folder / "r.yaml").write_text("data: {card: own.yaml}\n")
    recipe = load_recipe(str(folder / "r.yaml"), [f"data.card={folder}/own.yaml", *overrides])
    load_recipe(str(folder / "r.yaml"), [f"data.card={folder}/own.yaml", *overrides])
    return recipe.eval.baselines, recipe.collaborative.of("mixture").tilt, capsys.readouterr().err


@pytest.mark.parametrize(
    "items",
    [
        "items: {path: i.csv, columns: {item: sku, title: name}}",
        "items: {path: i.csv, columns: {item: sku, title: sku, brand: maker}}",
        "items: {path: i.csv, columns: {item: sku, title: sku}, flags: {categories: [a, b]}}",
        "sources: [{url: https://a/b.zip, items: {path: i.csv, columns: {item: sku, title: name}}}]",
    ],
)
def test_items_with_texts_are_compared_with_text_neighbours(tmp_path, capsys, items):
    baselines, tilt, told = resolved(tmp_path, items, capsys)
    assert "text_knn" in baselines and len(baselines) == 8 and tilt == "text_knn" and told == ""


@pytest.mark.parametrize("items", ["", "items: {path: i.csv, columns: {item: sku, title: sku}}"])
def test_without_item_texts_text_neighbours_drop_out_with_one_line(tmp_path, capsys, items):
    baselines, tilt, told = resolved(tmp_path, items, capsys)
    assert "text_knn" not in baselines and len(baselines) == 7 and tilt is None
    assert told == (
        f"data.card: {tmp_path}/own.yaml describes no item texts; "
        "left out: the baseline text_knn, the mixture's tilt by text\n"
    )


def test_what_a_recipe_names_itself_stays(tmp_path, capsys):
    own = ("eval.baselines=[text_knn]", "collaborative.mixture.tilt=text_knn")
    assert resolved(tmp_path, "", capsys, *own) == (["text_knn"], "text_knn", "")
    assert resolved(tmp_path, "", capsys, "data.card=absent")[0][4] == "text_knn"


def test_lists_are_re_ranked_in_one_way():
    both = MINIMAL | {"decode": {"mmr": {}, "dpp": {"trade_off": 0.5}}}
    assert "mmr and dpp both re-rank" in error_of(validate, Recipe, both, "r.yaml")
