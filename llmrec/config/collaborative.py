"""The recipe's `collaborative` section: settings of the models that learn from interactions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, SerializeAsAny, ValidationInfo, create_model

from llmrec.config.registry import SYSTEMS
from llmrec.config.section import Section, located_error, may_lack_code
from llmrec.errors import UserError
from llmrec.plugins import is_import_path, suggest_name


class SystemSettings(Section):
    """Settings of a collaborative system, and what the stages must know about it.

    The fields of a subclass are the system's own settings.

    Attributes:
        title: the system's name in the report.
        formula: the score of an item, in one line.
        files: endings of the files `collaborative/<name><ending>` that `train` writes; empty for a system that is
            fitted whenever it is needed.
        reads: dotted recipe keys outside the system's settings on which `train` depends.
        learns_in_training: whether `train` has learned from all training interactions, so that `fit` cannot leave
            some users out.
        libraries: packages of the extra `baselines` that `train` needs.
    """

    title: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()
    learns_in_training: ClassVar[bool] = False
    libraries: ClassVar[tuple[str, ...]] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of other systems that this one combines; they are trained before it."""
        return ()

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """Floating-point operations of `train`, for the estimate; 0 if it takes only seconds."""
        return 0.0


class CollaborativeConfig(Section):
    """Settings of collaborative systems, by name. The name of a user's own system is its import path."""

    @classmethod
    def section_for(cls, value: Any) -> type[Section]:
        """Return the section with a key for each shipped system with settings, and each user system in `value`."""
        names = value if isinstance(value, Mapping) else ()
        paths = [name for name in names if isinstance(name, str) and is_import_path(name)]
        try:
            return _section(tuple(sorted(paths)))
        except UserError:
            return _section(())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings by name, because the class of the section is made for the recipe at hand."""
        return _unpickle, ({name: getattr(self, name) for name in type(self).model_fields},)

    def of(self, name: str) -> SystemSettings:
        """Return the settings of a system, with its defaults if the recipe has none.

        Raises:
            UserError: there is no such system.
        """
        settings = getattr(self, name, None)
        return settings if isinstance(settings, SystemSettings) else system_class(name)()


def system_class(name: str) -> type[SystemSettings]:
    """Load the class of a collaborative system.

    Raises:
        UserError: there is no such system, or the user's class is not a system.
    """
    loaded: type[SystemSettings] = SYSTEMS.load(name)
    return loaded


@cache
def _section(paths: tuple[str, ...]) -> type[CollaborativeConfig]:
    """Create the section with the settings of all shipped systems and of the user's systems at `paths`."""
    classes = {name: system_class(name) for name in (*SYSTEMS.shipped, *paths)}
    fields: dict[str, Any] = {
        name: (settings, settings()) for name, settings in classes.items() if settings.model_fields
    }
    return create_model("CollaborativeConfig", __base__=CollaborativeConfig, **fields)


def _unpickle(settings: dict[str, SystemSettings]) -> CollaborativeConfig:
    return _section(tuple(sorted(filter(is_import_path, settings))))(**settings)


def _read(value: Any, info: ValidationInfo) -> Any:
    """Read each system's settings by its own class."""
    if isinstance(value, CollaborativeConfig):
        return value
    if not isinstance(value, Mapping):
        raise located_error((), "expected settings by the name of a system", value)
    paths = [name for name in value if isinstance(name, str) and is_import_path(name)]
    missing = []
    for name in paths:
        try:
            system_class(name)
        except UserError as error:
            if not may_lack_code(info):
                raise located_error((name,), str(error), name) from None
            missing.append(name)
    section = _section(tuple(sorted(set(paths) - set(missing))))
    return section.model_validate({name: value[name] for name in value if name not in missing})


def check_system(name: str, info: ValidationInfo, *others: str) -> str:
    """Validate the name of a collaborative system, and return it.

    Args:
        name: the recipe's value.
        info: pydantic's information on the validation.
        others: further valid names, for the message.

    Raises:
        ValidationError: there is no such system, or the user's class is not a system.
    """
    if name not in SYSTEMS.shipped and not is_import_path(name):
        names = [*SYSTEMS.shipped, *others]
        raise located_error((), f"no {name!r} ({suggest_name(name, names)})", name)
    try:
        system_class(name)
    except UserError as error:
        if not may_lack_code(info):
            raise located_error((), str(error), name) from None
    return name


def _check_name(name: str, info: ValidationInfo) -> str:
    return check_system(name, info)


Collaborative = Annotated[SerializeAsAny[CollaborativeConfig], BeforeValidator(_read)]
"""Type of the section: each system's settings are read by the class of the system."""
CollaborativeSystem = Annotated[str, AfterValidator(_check_name)]
"""Name of a collaborative model: a shipped one, or `module:name` of your own class."""
