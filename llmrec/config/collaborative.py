"""The recipe's `collaborative` section: settings of the models that learn from interactions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, SerializeAsAny, ValidationInfo, create_model

from llmrec.config.registry import SYSTEMS
from llmrec.config.section import Section, located_error, may_lack_code
from llmrec.errors import UserError, did_you_mean
from llmrec.plugins import is_import_path


class SystemSettings(Section):
    """What every collaborative system tells the stages; its own settings are fields of its class.

    Attributes:
        title: its name in the report.
        formula: how it scores an item, in one line.
        files: endings of the files `collaborative/<name><ending>` that `train` writes; empty for a system that is
            fitted whenever it is needed.
        reads: dotted recipe keys outside its own settings that `train` depends on.
    """

    title: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[tuple[str, ...]] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of other systems that it is made of; they are trained before it."""
        return ()

    def training_flops(self, users: int, items: int, interactions: int) -> float:
        """Floating-point operations of `train`, for the estimate; 0 where it takes seconds."""
        return 0.0


class CollaborativeConfig(Section):
    """Settings by the name of the system; of a user's own system the name is its import path."""

    @classmethod
    def section_for(cls, value: Any) -> type[Section]:
        """The section with a key for each system that has settings, and for each of the user's own in `value`."""
        names = value if isinstance(value, Mapping) else ()
        own = [name for name in names if isinstance(name, str) and is_import_path(name)]
        try:
            return _section(tuple(sorted(own)))
        except UserError:
            return _section(())

    def of(self, name: str) -> SystemSettings:
        """Settings of a system, the defaults where the recipe has none.

        Raises:
            UserError: no such system.
        """
        given = getattr(self, name, None)
        return given if isinstance(given, SystemSettings) else system_class(name)()


def system_class(name: str) -> type[SystemSettings]:
    """The collaborative system of a name.

    Raises:
        UserError: no such name, or a class of the user's that is no system.
    """
    loaded: type[SystemSettings] = SYSTEMS.load(name)
    return loaded


@cache
def _section(own: tuple[str, ...]) -> type[CollaborativeConfig]:
    """A section with the settings of all shipped systems, and of the user's own named ones."""
    classes = {name: system_class(name) for name in (*SYSTEMS.shipped, *own)}
    fields: dict[str, Any] = {
        name: (settings, settings()) for name, settings in classes.items() if settings.model_fields
    }
    return create_model("CollaborativeConfig", __base__=CollaborativeConfig, **fields)


def _read(value: Any, info: ValidationInfo) -> Any:
    """Read each system's settings by its own class."""
    if isinstance(value, CollaborativeConfig):
        return value
    if not isinstance(value, Mapping):
        raise located_error((), "expected settings by the name of a system", value)
    own = [name for name in value if isinstance(name, str) and is_import_path(name)]
    missing = []
    for name in own:
        try:
            system_class(name)
        except UserError as error:
            if not may_lack_code(info):
                raise located_error((name,), str(error), name) from None
            missing.append(name)
    section = _section(tuple(sorted(set(own) - set(missing))))
    return section.model_validate({name: value[name] for name in value if name not in missing})


def check_system(name: str, info: ValidationInfo, *others: str) -> str:
    """A system's name, as a validator returns it.

    Args:
        name: what the recipe has.
        info: of the validation.
        others: names that would do as well, for the message.

    Raises:
        ValidationError: no such system, or a class of the user's that is no system.
    """
    if name not in SYSTEMS.shipped and not is_import_path(name):
        names = [*SYSTEMS.shipped, *others]
        raise located_error((), f"no {name!r} ({did_you_mean(name, names)})", name)
    try:
        system_class(name)
    except UserError as error:
        if not may_lack_code(info):
            raise located_error((), str(error), name) from None
    return name


def _check_name(name: str, info: ValidationInfo) -> str:
    return check_system(name, info)


Collaborative = Annotated[SerializeAsAny[CollaborativeConfig], BeforeValidator(_read)]
CollaborativeSystem = Annotated[str, AfterValidator(_check_name)]
"""Name of a collaborative model: a shipped one, or `module:name` of your own class."""
