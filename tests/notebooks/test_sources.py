"""The notebooks in git: no outputs, parameters that equal the model's defaults, figures with alt text."""

from __future__ import annotations

import ast
import itertools

import nbformat
import pytest
import yaml

from leuk_lib.book.chapters import FOLD, METHOD
from leuk_lib.runs import paths
from leuk_lib.runs.code import notebook_source
from leuk_lib.runs.params import assigned_names, check
from leuk_lib.stages import PROFILES, STAGES, StageSpec, load_profile

by_stage = pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)


def cells(spec: StageSpec, kind: str) -> list:
    return [cell for cell in nbformat.read(spec.notebook, as_version=4).cells if cell.cell_type == kind]


def test_the_notebooks_are_the_stages_in_their_order():
    assert list(paths.stage_notebooks()) == [spec.name for spec in STAGES]


@by_stage
def test_stages_read_only_what_comes_before(spec: StageSpec):
    names = [other.name for other in STAGES]
    assert all(names.index(upstream) < names.index(spec.name) for upstream in spec.inputs)


@by_stage
def test_a_chapter_is_short(spec: StageSpec):
    everything = nbformat.read(spec.notebook, as_version=4).cells
    words = sum(len(cell.source.split()) for cell in everything if cell.cell_type == "markdown")
    assert len(everything) <= 45 and words <= 2000, f"{len(everything)} cells, {words} words"


@by_stage
def test_no_outputs_in_git(spec: StageSpec):
    for cell in cells(spec, "code"):
        assert not cell.outputs and cell.execution_count is None


@by_stage
def test_parameters_cell_equals_the_model(spec: StageSpec):
    tagged = [cell for cell in cells(spec, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == cells(spec, "code")[:1], "the parameters cell is the first code cell, and the only one"
    namespace: dict = {}
    exec(tagged[0].source, namespace)
    fields = spec.params_model().model_fields
    assert set(assigned_names(tagged[0].source)) == {*fields, "stages"}
    assert namespace["stages"] == {}
    values = {name: namespace[name] for name in fields}
    assert check(spec.name, spec.params_model(), values) == spec.params_model()()


@by_stage
def test_no_cell_gives_a_parameter_another_value(spec: StageSpec):
    # The cell that begins the stage reads the names again when somebody runs it again.
    names = set(spec.params_model().model_fields)
    later = [name for cell in cells(spec, "code")[1:] for name in assigned_names(cell.source)]
    assert names & set(later) == set()


@by_stage
def test_every_parameter_has_a_meaning(spec: StageSpec):
    assert [name for name, field in spec.params_model().model_fields.items() if not field.description] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_fit_the_models(profile: str):
    content = yaml.safe_load(paths.profile_file(profile).read_text())
    assert set(content) == {"profile", "stages"} and content["profile"] == profile
    for spec in STAGES:
        values = load_profile(profile)[spec.name]
        params = check(spec.name, spec.params_model(), values)
        same = [name for name, value in values.items() if getattr(params, name) == getattr(spec.params_model()(), name)]
        assert same == [], f"{profile}.yml repeats the default of {spec.name}: {same}"
        assert profile == "laptop" or spec.name in (content["stages"] or {})


@by_stage
def test_a_chapter_has_a_title_and_finishes_its_stage(spec: StageSpec):
    everything = nbformat.read(spec.notebook, as_version=4).cells
    assert everything[0].cell_type == "markdown" and everything[0].source.startswith("# ")
    assert "stage.finish()" in everything[-1].source


@by_stage
@pytest.mark.parametrize("word", ["../", "sys.path", "torch.save", "torch.load", "pickle"])
def test_no_paths_and_no_pickles(spec: StageSpec, word: str):
    assert word not in notebook_source(spec.notebook)


@by_stage
def test_every_figure_has_alt_text_caption_and_name(spec: StageSpec):
    names = []
    for cell in cells(spec, "code"):
        shows = cell.source.count("stage.show(")
        assert shows <= 1, f"one figure per cell: {cell.source}"
        if shows:
            assert "stage.table(" not in cell.source, f"the table would become a second figure: {cell.source}"
            mystnb = cell.metadata.get("mystnb", {})
            assert len(mystnb.get("image", {}).get("alt", "")) > 40, cell.source
            assert len(mystnb.get("figure", {}).get("caption", "")) > 40, cell.source
            names.append(mystnb["figure"]["name"])
    assert len(names) == len(set(names)) and all(
        name.startswith(f"fig-{spec.name.replace('_', '-')}") for name in names
    )


@by_stage
def test_code_either_shows_a_method_and_fits_the_page_or_folds_under_a_summary(spec: StageSpec):
    for cell in cells(spec, "code"):
        tags, lines = cell.metadata.get("tags", []), cell.source.split("\n")
        if METHOD in tags:
            assert FOLD not in tags and max(map(len, lines)) <= 88, cell.source
            assert not any(call in cell.source for call in ("Stage.begin", "stage.show(", "stage.table(", ".save_"))
        elif "parameters" not in tags:
            assert FOLD in tags and cell.metadata.jupyter.source_hidden, cell.source
            assert lines[0].startswith("# ") and len(lines[0]) <= 88 and not lines[0].endswith("."), cell.source


@by_stage
def test_a_table_under_a_figure_is_folded(spec: StageSpec):
    everything = nbformat.read(spec.notebook, as_version=4).cells
    for figure, table in itertools.pairwise(everything):
        if "stage.show(" in figure.source and "stage.table(" in table.source:
            shown = table.source.count("stage.table(")
            assert table.source.count("display.folded(") >= shown, table.source


@by_stage
def test_every_table_and_figure_is_displayed(spec: StageSpec):
    """Jupyter displays the last expression of a cell only; elsewhere a table needs ``display.show``."""
    for cell in cells(spec, "code"):
        body = ast.parse(cell.source).body
        for node in ast.walk(ast.Module(body, [])):
            if isinstance(node, ast.Expr) and node is not body[-1]:
                assert not ast.unparse(node).startswith(("stage.table(", "stage.show(")), ast.unparse(node)
