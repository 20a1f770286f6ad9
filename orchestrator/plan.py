"""From a job's directives to what it wants of each buffer (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ebb.errors import UserError
from ebb.model import Directive, Flavor, Resources, ServiceType, Verb
from ebb.sbb import Sync

# Types that the datanodes of this release can serve; the grammar knows more.
SERVED = frozenset({ServiceType.DASI, ServiceType.GBF, ServiceType.SBB})

# Bytes of a file that lie together on one server; the grammar fills it in.
DEFAULT_STRIPE = 1 << 20


@dataclass(frozen=True, slots=True)
class Want:
    """All that one job wants of one buffer. create: the directive that makes it, if this job does."""

    name: str
    create: Directive | None = None
    use: bool = False
    destroy: bool = False
    discard: bool = False

    @property
    def scoped(self) -> bool:
        """Created and used in one script: a buffer for this job, ended with it."""
        return self.create is not None and (self.use or self.destroy)

    @property
    def destroys_alone(self) -> bool:
        """The end of the buffer is all that the job wants of it: done in its stage-in."""
        return self.destroy and not self.use and self.create is None


def wants_of(directives: Iterable[Directive]) -> tuple[Want, ...]:
    """One Want for each buffer named, in order of first mention.

    Raises UserError for a type that this release does not serve.
    """
    wants: dict[str, Want] = {}
    for directive in directives:
        want = wants.get(directive.name, Want(directive.name))
        if directive.verb is Verb.CREATE_PERSISTENT:
            if directive.type not in SERVED:
                served = ", ".join(sorted(SERVED))
                raise UserError(
                    f"line {directive.line}: {directive.type} buffers are not served here; those that are: {served}"
                )
            want = replace(want, create=directive)
        elif directive.verb is Verb.USE_PERSISTENT:
            want = replace(want, use=True)
        else:
            discard = directive.args.get("Discard", "no").lower() == "yes"
            want = replace(want, destroy=True, discard=discard)
        wants[directive.name] = want
    return tuple(wants.values())


@dataclass(frozen=True, slots=True)
class Needs:
    """What a buffer takes on each of its datanodes, and on how many."""

    each: Resources
    datanodes: int = 1


def needs_of(create: Directive, flavors: Mapping[str, Flavor]) -> Needs:
    """What the buffer that a directive creates needs.

    Raises UserError for a flavor that datanodes.conf does not have.
    """
    if create.type is ServiceType.SBB:
        flavor = flavors.get(create.args["Flavor"].lower())
        if flavor is None:
            known = ", ".join(sorted(flavors)) or "none"
            raise UserError(f"line {create.line}: Flavor={create.args['Flavor']}: no such flavor; known: {known}")
        return Needs(flavor.resources, _number(create, "Datanodes", "1"))
    return Needs(Resources(storage=_number(create, "StorageSize")))


@dataclass(frozen=True, slots=True)
class SbbOptions:
    """What only the directive of an SBB says; kept with the buffer. stripe in bytes."""

    sync: Sync = Sync.SERVERS
    stripe: int = DEFAULT_STRIPE


def path_of(create: Directive) -> str:
    """Where jobs see the buffer: its Path; of a DASI its configuration, which names the places; Targets of an SBB."""
    key = {ServiceType.DASI: "DasiConfig", ServiceType.SBB: "Targets"}.get(create.type, "Path")
    return create.args.get(key, "")


def sbb_options_of(create: Directive) -> SbbOptions | None:
    """None for other types. Raises UserError for a Sync that is none."""
    if create.type is not ServiceType.SBB:
        return None
    sync = create.args.get("Sync", Sync.SERVERS.value)
    if sync not in Sync.__members__.values():
        raise UserError(f"line {create.line}: Sync={sync}: accepted: {', '.join(Sync)}")
    return SbbOptions(Sync(sync), _number(create, "StripeSize", str(DEFAULT_STRIPE)))


def _number(create: Directive, key: str, default: str = "") -> int:
    text = create.args.get(key, default)
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UserError(f"line {create.line}: {key}={text}: must be a whole number from 1")
    return int(text)
