"""What the paper states of ParaRL, and what we recommend.

The paper states neither the group size nor the clipping range: 8 and 0.2 are
customary (TraceRL, arXiv 2509.06949). The KL's anchor is the old policy, as
equation 3 is printed; an appendix prints the reference policy.
"""

import ml_collections


def paper() -> ml_collections.ConfigDict:
  """Return equations 3 and 4: three isolated steps, the level as the credit."""
  return ml_collections.ConfigDict(
    dict(
      units=dict(kind="all", num=3),
      credit="level",
      objective=dict(
        clip_low=0.2,
        clip_high=0.2,
        kl_anchor="old",
        kl_estimator="k3",
        aggregation="paper_sum",
        score_set="committed",
      ),
      kl=dict(coef=1e-4),
    )
  )


def recommended() -> ml_collections.ConfigDict:
  """Return slices that score every token, and credit for the end too."""
  return ml_collections.ConfigDict(
    dict(
      units=dict(kind="slices", num=3),
      credit="mix",
      objective=dict(
        clip_low=0.2,
        clip_high=0.28,
        kl_anchor="ref",
        kl_estimator="exact",
        aggregation="per_modality_mean",
        score_set="committed",
      ),
      # At 1e-4 nothing holds the policy and edits are unlearned; .1 holds it
      # too tightly: benchmarks/RESULTS.md.
      kl=dict(coef=0.03),
    )
  )


PRESETS = {"paper": paper, "recommended": recommended}
