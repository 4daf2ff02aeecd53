"""One colour for each planner, everywhere: on the viewer's page and in every figure."""

OTHER = ("#5d6d7e", "#a3b1bf")
"""On light and on dark ground, for what is no planner of this library."""

PLANNERS: dict[str, tuple[str, str]] = {
    "LatCo": ("#0060a8", "#58aef0"),
    "GaussianLatCo": ("#00838f", "#4fd0dd"),
    "FirstOrderLatCo": ("#5c6bc0", "#9fa8da"),
    "ImageCollocation": ("#26418f", "#7c93e6"),
    "CEM": ("#d1495b", "#f08090"),
    "DCEM": ("#a61e4d", "#f06595"),
    "MPPI": ("#e08e28", "#f5b25c"),
    "LatentActions": ("#b8860b", "#e3c04e"),
    "GradMPC": ("#3a8f5c", "#6fcf97"),
    "PolicyGradMPC": ("#6b8e23", "#b1d45f"),
    "ShootingGD": ("#7a5c3e", "#c9a27a"),
    "ShootingGN": ("#a0522d", "#e0956b"),
    "ILQR": ("#8d6cab", "#c3a2e0"),
    "AugmentedLagrangian": ("#495057", "#b0b8c0"),
}
