"""What each convolution becomes. In: the sites of a model, a budget. Out: prices, a plan, the rewritten model."""

from separable.plan.apply import rewrite
from separable.plan.candidates import Candidate, propose
from separable.plan.plan import Choice, Plan
from separable.plan.prices import Price, Prices, SitePrices, Totals
from separable.plan.pricing import price
from separable.plan.responses import Effort
from separable.plan.search import choose_plan

__all__ = [
    "Candidate",
    "Choice",
    "Effort",
    "Plan",
    "Price",
    "Prices",
    "SitePrices",
    "Totals",
    "choose_plan",
    "price",
    "propose",
    "rewrite",
]
