"""A generated world of Pins with known answers, for the demo, tests, benches and training."""

from producers.world.canvas import Placed
from producers.world.catalog import LINE_SIZE, Category, Product
from producers.world.world import RenderedFrame, RenderedImage, World

__all__ = ["LINE_SIZE", "Category", "Placed", "Product", "RenderedFrame", "RenderedImage", "World"]
