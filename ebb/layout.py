"""How a volume lies in its LVM volume group: linear, striped over several drives, or thin in a pool.

datanodes.conf says it for each volume group; the service spec carries it to dnd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ebb.fields import Fields


@dataclass(frozen=True, slots=True)
class Layout:
    """stripes: physical volumes to stripe over, 1 is linear. stripe_size: bytes, 0 leaves it to LVM.

    thin_pool: the name of the pool that the volume is in, empty for none; such a volume has the pool's stripes.
    """

    stripes: int = 1
    stripe_size: int = 0
    thin_pool: str = ""

    def __str__(self) -> str:
        if self.thin_pool:
            return f"thin in {self.thin_pool}"
        return "linear" if self.stripes == 1 else f"{self.stripes} stripes"

    def to_wire(self) -> dict[str, Any] | None:
        """The JSON object of docs/interfaces.md, "Service spec"; None for linear."""
        if self == LINEAR:
            return None
        return {"stripes": self.stripes, "stripe_size": self.stripe_size, "thin_pool": self.thin_pool or None}

    @classmethod
    def from_wire(cls, data: object) -> Layout:
        """Raises UserError naming field, value and what is expected."""
        fields = Fields("service spec: layout", data)
        pool = fields.plain("thin_pool") if fields.message_or_none("thin_pool") is not None else ""
        layout = cls(fields.integer("stripes", 1), fields.integer("stripe_size"), pool)
        fields.done()
        if pool and layout != cls(thin_pool=pool):
            raise fields.refuse("thin_pool", "null where there are stripes: a pool has its own")
        return layout


LINEAR: Final = Layout()
"""What a volume group has of which datanodes.conf says nothing else."""
