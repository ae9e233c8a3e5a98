"""How the hypothesis tests here run: the same cases every time, as many as asked for, however long each takes."""

from hypothesis import HealthCheck, Phase, settings


def thorough(wanted: int) -> settings:
    """Enough examples that so many different ones are met: hypothesis tries some twice."""
    return settings(
        max_examples=wanted * 4 // 3,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
