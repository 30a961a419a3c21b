"""From a blend's rule to the share of every source of a pool (paper, Table 8). Exact, and pure.

A blend weighs sources, domains or kinds. Within a domain or kind the sources keep the proportions of their rows. The
paper's own shares are unpublished; on the sizes of its Table 1 this rule gives those derived from it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction

from conf.blend import BlendConfig
from crossthink.errors import ConfigError, UserError
from data_prep.blend_sampler import check_weights

BY = ("source", "domain", "kind")
MIXED = "mixed"  # in the place of a domain or kind: the source holds rows of more than one

Groups = Mapping[str, tuple[str, str]]
"""(domain, kind) of every source, as `source_groups` finds them."""


def source_groups(rows: Iterable[tuple[str, str, str]]) -> dict[str, tuple[str, str]]:
    """(domain, kind) of every source, from (source, domain, kind) of its rows; distinct triples are enough.

    `mixed` stands where they differ; a source of open and of math rows is `open`, which is how a blend counts both.
    """
    domains: defaultdict[str, set[str]] = defaultdict(set)
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    for source, domain, kind in rows:
        domains[source].add(domain)
        kinds[source].add(kind)
    return {source: (_only(domains[source]), _kind(kinds[source])) for source in domains}


def blend_weights(counts: Mapping[str, int], groups: Groups, blend: BlendConfig, pool: str) -> dict[str, Fraction]:
    """The share of every source that `blend` draws from, exact, adding up to 1: the weights for a `BlendSampler`.

    Args:
        counts: rows of every source of the pool.
        groups: (domain, kind) of every source that has rows.
        blend: the rule.
        pool: what error messages call the pool.

    Raises:
        ConfigError: `blend.by` is unknown, the weights name something else than it says, or a score is missing.
        UserError: an impossible weight; the pool lacks what is weighed; a source belongs to two of the weighed groups.
    """
    if blend.by not in BY:
        raise ConfigError(f"blend.by={blend.by} is not allowed. Allowed: {', '.join(BY)}.")
    title = f"Blend {blend.name}"
    natural = check_weights(counts, {}, pool, title)
    present = {source: counts[source] for source in natural}
    if blend.scores:
        return check_weights(counts, _score_weights(present, blend, pool), pool, title)
    _check_names(present, groups, blend, pool)
    if not blend.weights:
        return natural
    if blend.by == "source":
        return check_weights(counts, blend.weights, pool, title)
    members = _members(present, groups, blend.by)
    if MIXED in members:
        raise UserError(
            f"{title} weighs each {blend.by}, but source {next(iter(members[MIXED]))} of {pool} holds rows of more "
            "than one, and a source is drawn from as a whole. Prepare it as two sources, or weigh sources: "
            "blend.by=source blend.weights={SOURCE: WEIGHT, ...}."
        )
    sizes = {group: sum(sources.values()) for group, sources in members.items()}
    shares = check_weights(sizes, blend.weights, pool, title, of=blend.by)
    return {source: shares[group] * rows / sizes[group] for group in shares for source, rows in members[group].items()}


def group_shares(groups: Groups, shares: Mapping[str, Fraction], by: str) -> dict[str, Fraction]:
    """Share of every domain (`by="domain"`) or kind (`mcq`, `open`) that follows from the shares of the sources."""
    found: defaultdict[str, Fraction] = defaultdict(Fraction)
    for source, share in shares.items():
        found[_group(groups[source], by)] += share
    return dict(sorted(found.items()))


def describe_blend(
    counts: Mapping[str, int], groups: Groups, blend: BlendConfig, shares: Mapping[str, Fraction], draws: int
) -> str:
    """The shares as lines of text: a source each, with how often `draws` draws go through its rows; then the totals.

    The totals stand beside each other because a blend of kinds moves the domains as well, and the other way round.
    """
    rule = ", ".join(f"{name} {weight:g}" for name, weight in blend.weights.items()) or "natural proportions"
    rule = "the sources' own averages" if blend.scores else rule
    width = max(map(len, shares))
    lines = [f"blend {blend.name} ({rule}; by {blend.by}; {blend.provenance}), {draws:,} draws:"]
    for source, share in shares.items():
        passes = float(share * draws / counts[source])
        lines.append(
            f"  {source:{width}}  {float(share):7.2%} of draws from {counts[source]:>9,} rows: {passes:.3g} passes"
        )
    for by in ("domain", "kind"):
        parts = group_shares(groups, shares, by).items()
        lines.append(f"  by {by}: " + ", ".join(f"{group} {float(share):.2%}" for group, share in parts))
    return "\n".join(lines)


def _only(values: set[str]) -> str:
    return next(iter(values)) if len(values) == 1 else MIXED


def _kind(kinds: set[str]) -> str:
    return _only(kinds) if len(kinds) == 1 else _only({_form(kind) for kind in kinds})


def _form(kind: str) -> str:
    """The kind as blends count it: everything that is not multiple choice is open, math included (paper, Table 1)."""
    return kind if kind in ("mcq", MIXED) else "open"


def _group(facts: tuple[str, str], by: str) -> str:
    return facts[0] if by == "domain" else _form(facts[1])


def _members(present: Mapping[str, int], groups: Groups, by: str) -> dict[str, dict[str, int]]:
    """The sources of every group, with their rows."""
    members: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for source, rows in present.items():
        members[source if by == "source" else _group(groups[source], by)][source] = rows
    return dict(members)


def _check_names(present: Mapping[str, int], groups: Groups, blend: BlendConfig, pool: str) -> None:
    """Refuse weights whose names all fit another `by`; names that fit none are for `check_weights`."""
    names = {by: _members(present, groups, by).keys() for by in BY}
    strangers = blend.weights.keys() - names[blend.by]
    fitting = [by for by in BY if blend.weights.keys() <= names[by]]
    if strangers and fitting:
        right = " or ".join(f"blend.by={by}" for by in fitting)
        raise ConfigError(
            f"blend.weights names {', '.join(sorted(strangers))}, which is no {blend.by} of {pool} (it has "
            f"{', '.join(names[blend.by])}) but a {' or '.join(fitting)}. Give {right}."
        )


def _score_weights(present: Mapping[str, int], blend: BlendConfig, pool: str) -> dict[str, float]:
    """The scores of `blend`, one for every source of the pool."""
    if blend.weights or blend.by != "source":
        key = "blend.weights" if blend.weights else f"blend.by={blend.by}"
        raise ConfigError(f"blend.scores weighs sources, so {key} has no use beside it. Give one of the two.")
    missing = [source for source in present if blend.scores.get(source) is None]
    if missing:
        keys = " and ".join(f"blend.scores.{source}=" for source in missing)
        raise ConfigError(
            f"{keys} {'is' if len(missing) == 1 else 'are'} missing. Blend {blend.name} weighs every source by its "
            f"stand-alone average, which is unpublished for {' and '.join(missing)} (paper, Table 3). Measure it: "
            "train on that source alone (recipe=table3_NAME), evaluate, and give the average."
        )
    absent = [source for source, score in blend.scores.items() if score and source not in present]
    if absent:
        raise UserError(
            f"Blend {blend.name} draws from {absent[0]}, which has no rows in {pool}. Its sources are "
            f"{', '.join(present)}. blend.scores.{absent[0]}=null leaves it out, or prepare the missing source."
        )
    return {source: score for source, score in blend.scores.items() if score is not None}
