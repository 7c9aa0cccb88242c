"""Parameters of a stage: a frozen, strict pydantic model, checked before any work starts."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.yaml_files import parse_plain, read_plain

INJECTED = "# Parameters"  # first line of the cell that papermill injects
BEGIN = "Stage.begin("  # marks the cell that reads the parameters
MAX_LISTED = 60  # valid names in an error message


class FrozenParams(BaseModel):
    """Parameters that are frozen, refuse unknown names, and convert nothing but lists to tuples."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    RENAMED: ClassVar[Mapping[str, str]] = {}  # earlier name -> present name, for the "did you mean" line

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        # YAML and papermill have lists only; frozen models hold tuples.
        if not isinstance(values, Mapping):
            return values
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


class StageParams(FrozenParams):
    """Parameters shared by all stages. The defaults of all models are the laptop profile."""

    dataset: str = Field("smear", min_length=1, description="'smear' (rendered cells) or a folder of images")
    profile: Literal["smoke", "laptop", "gpu", "paper"] = Field("laptop", description="size of the run")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of all random streams")
    run: str = Field(
        "default",
        pattern=f"^{paths.RUN_NAME}$",
        max_length=paths.MAX_RUN,
        description="name of the run: its folder in results/",
    )
    threads: int = Field(2, ge=1, le=256, description="CPU threads; fixed, since sums depend on them in the last bit")


class TrainParams(StageParams):
    """Parameters shared by all stages that train."""

    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of training")
    devices: int = Field(1, ge=1, le=64, description="processes (GPUs) that train together")
    precision: Literal["32-true", "tf32", "bf16-mixed"] = Field(
        "32-true",
        description="floating-point precision of training: float32, also on a GPU; float32 with products in TF32 on a GPU; or "
        "products in bfloat16",
    )
    torch_compile: bool = Field(
        False,
        description="compile networks before training with torch.compile (of the GAN the generator only), which takes up to "
        "some minutes and needs a C++ compiler; no effect on passes of WPAT with accumulate > 1",
    )
    checkpoint_every: int = Field(50, ge=1, description="optimiser steps between two checkpoints")


class SeveralTrainings(TrainParams):
    """Parameters shared by all stages that train several networks."""

    side_by_side: int = Field(
        1,
        ge=1,
        le=64,
        description="trainings of this stage at a time on a CPU, each in a process of its own with `threads` threads; at most "
        "as many as there are cores for. The results do not depend on it",
    )


Params = TypeVar("Params", bound=FrozenParams)
Stage = TypeVar("Stage", bound=StageParams)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a "did you mean" question with the nearest valid name, or the list of valid names if it is short.

    >>> nearest("epohcs", ["epochs", "seed"])
    "did you mean 'epochs'?"
    """
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    shown = valid if len(valid) <= MAX_LISTED else [*valid[:MAX_LISTED], f"… ({len(valid)} in all)"]
    return f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(shown)}"


def check(owner: str, model: type[Params], values: Mapping[str, Any]) -> Params:
    """Validate ``values`` against ``model``.

    Args:
        owner: What the parameters belong to, such as "stage fcmae", for the error message.
        model: The parameter model.
        values: Parameters by name.

    Raises:
        LeukError: For the first wrong parameter. It names the parameter, its value, and what is allowed or the nearest
            valid name.
    """
    for name, value in values.items():
        if not isinstance(name, str):
            raise LeukError(f"{owner}: parameter {name!r}: its name must be a text")
        if name not in model.model_fields:
            present = model.RENAMED.get(name)
            hint = f"did you mean {present!r}?" if present else nearest(name, model.model_fields)
            raise LeukError(f"{owner}: unknown parameter {name!r} (value {value!r}); {hint}")
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "parameters"
        meaning = model.model_fields[name].description if name in model.model_fields else None
        raise LeukError(
            f"{owner}: parameter {'.'.join(map(str, first['loc'])) or name} = {values.get(name, first.get('input'))!r}: "
            f"{first['msg'][0].lower()}{first['msg'][1:]}" + (f" ({meaning})" if meaning else "")
        ) from error


def parse_value(setting: str, text: str) -> Any:
    """Parse a value as YAML (``yaml_files``).

    Args:
        setting: What the user wrote, for the error message.
        text: The value.

    Raises:
        LeukError: If the value is not YAML.
    """
    try:
        return parse_plain(text)
    except yaml.YAMLError as error:
        raise LeukError(
            f"setting {setting[:200]!r}: the value is not YAML ({error}); close its brackets and quotes"
        ) from error


def assigned_names(source: str) -> list[str]:
    r"""Return the names that a cell assigns at its top level.

    >>> assigned_names("x = 1\ny: int = 2\nx.z = 3")
    ['x', 'y']
    """
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with magics assigns no parameters
        return []
    names = []
    for node in body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def _is_injected(cell: str) -> bool:
    return cell.lstrip().partition("\n")[0].rstrip() == INJECTED


def parameter_cells(executed: Iterable[str]) -> list[str]:
    """Return the executed cells that set parameters: those before ``Stage.begin``.

    Later cells belong to the chapter, until a cell sets a parameter of all stages, such as the seed: then someone runs
    the notebook again from the top.
    """
    cells: list[str] = []
    begun = False
    for cell in executed:
        if BEGIN in cell:
            begun = True
        elif not begun:
            cells.append(cell)
        elif set(assigned_names(cell)) & set(StageParams.model_fields) or _is_injected(cell):
            cells = [*cells, cell] if _is_injected(cell) else [cell]
            begun = False
    return cells


def from_namespace(stage: str, model: type[Stage], namespace: Mapping[str, Any], known_stages: Iterable[str]) -> Stage:
    """Read the parameters of a notebook or script from its global names.

    In IPython, the cells that were executed before the present one count: the parameters cell gives defaults, the
    profile's section ``stages[stage]`` overrides them, and the names that papermill injected override both. Elsewhere
    all public names of plain data count.

    Raises:
        LeukError: If a name is not a parameter (papermill only warns), if a value is not allowed, or if a profile is
            named but its values are missing.
    """
    cells = namespace.get("In")
    if isinstance(cells, list):
        earlier = parameter_cells(cell for cell in cells[:-1] if cell.strip())
    else:
        plain = (str, int, float, bool, list, tuple, dict, type(None))
        names = [n for n, v in namespace.items() if not n.startswith("_") and isinstance(v, plain)]
        earlier = ["\n".join(f"{name} = 0" for name in names)]
    own: dict[str, Any] = {}
    injected: dict[str, Any] = {}
    for position, cell in enumerate(earlier):
        target = injected if position > 0 and _is_injected(cell) else own
        if target is own and (again := set(assigned_names(cell)) & set(injected)):
            raise LeukError(
                f"stage {stage}: parameter {sorted(again)[0]!r} is set once more after the injected parameters, which would "
                "be lost; a notebook has one cell with the tag 'parameters'"
            )
        target.update({name: namespace[name] for name in assigned_names(cell) if name in namespace})

    sections = injected.pop("stages", own.get("stages", {}))
    own.pop("stages", None)
    if not isinstance(sections, Mapping):
        raise LeukError(f"parameter stages = {sections!r}: must be a mapping of stage names to parameters")
    for name, section in sections.items():
        if name not in set(known_stages) | {stage}:
            raise LeukError(f"parameter stages: unknown stage {name!r}; {nearest(str(name), known_stages)}")
        if section is not None and not isinstance(section, Mapping):
            raise LeukError(f"parameter stages: {name} = {section!r}: must be a mapping of parameters to values")
    values = {**own, **dict(sections.get(stage) or {}), **injected}
    params = check(f"stage {stage}", model, values)
    if params.profile != "laptop" and stage not in sections:
        raise LeukError(
            f"stage {stage}: profile {params.profile!r} was named but its values were not given; "
            f"add -f notebooks/profiles/{params.profile}.yml"
        )
    if other := _profile_of(sections, params.profile):
        raise LeukError(
            f"stage {stage}: profile {params.profile!r} was named, but the values are those of "
            f"notebooks/profiles/{other}.yml; name the same profile in both"
        )
    return params


def _profile_of(sections: Mapping[str, Any], named: str) -> str:
    """Return the other profile whose file holds exactly these sections, or ""."""
    for path in sorted(paths.profile_file(named).parent.glob("*.yml")) if len(sections) > 1 else []:
        if path.stem != named and read_plain(path).get("stages") == sections:
            return path.stem
    return ""
