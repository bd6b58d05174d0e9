"""Norms and angles of gradients, and the weight of steering that they imply.

s = ||g_std||    v = ||g_vis||    c = cos(g_std, g_vis)    u = g_std + gamma g_vis, the update
"""

from __future__ import annotations

import math
from collections.abc import Mapping


class Geometry:
    """Of named gradients, from their inner products."""

    def __init__(self, products: Mapping[tuple[str, str], float]) -> None:
        """`products`: of each pair once, and of each with itself."""
        self._products = dict(products)

    def product(self, a: str, b: str) -> float:
        """<g_a, g_b>"""
        found = self._products.get((a, b))
        return self._products[b, a] if found is None else found

    def norm(self, name: str) -> float:
        """||g||"""
        return math.sqrt(max(self.product(name, name), 0.0))

    def cosine(self, a: str, b: str) -> float:
        """cos(g_a, g_b); NaN where one of them is zero."""
        norms = self.norm(a) * self.norm(b)
        return min(1.0, max(-1.0, self.product(a, b) / norms)) if norms > 0 else math.nan

    def angle(self, a: str, b: str) -> float:
        """Degrees between g_a and g_b; NaN where one of them is zero."""
        return math.degrees(math.acos(self.cosine(a, b)))


def steered_norm(geometry: Geometry, gamma: float, steering: str = "steering") -> float:
    """||g_std + gamma g_steer||, `steering` being the name of g_steer."""
    square = geometry.product("standard", "standard")
    square += 2 * gamma * geometry.product("standard", steering)
    square += gamma**2 * geometry.product(steering, steering)
    return math.sqrt(max(square, 0.0))


def gamma_at_angle(geometry: Geometry, degrees: float, largest: float) -> float:
    """The gamma in [0, largest] that leaves `degrees` between u and g_steer, or as near to that as it gets.

    g_std has the length s c along g_steer and s sqrt(1 - c^2) across it, which steering leaves alone, so

        tan(angle) = s sqrt(1 - c^2) / (s c + gamma v)
    """
    v, c = geometry.norm("steering"), geometry.cosine("standard", "steering")
    if math.isnan(c):
        return 0.0
    s = geometry.norm("standard")
    across = s * math.sqrt(1 - c * c)
    gamma = (across / math.tan(math.radians(degrees)) - s * c) / v
    return min(max(gamma, 0.0), largest)


def gamma_at_share(geometry: Geometry, share: float, largest: float) -> float:
    """The gamma in [0, largest] at which gamma v / (s + gamma v) is `share`."""
    v = geometry.norm("steering")
    if v == 0:
        return 0.0
    return min(share / (1 - share) * geometry.norm("standard") / v, largest)
