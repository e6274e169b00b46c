"""CRPO (arXiv 2412.21037, section 2.5.3): L_CRPO = L_DPO-FM + L_FM of the chosen sample.

DPO-FM alone can be lowered while the errors of both samples grow. The flow-matching loss of the chosen sample keeps
the policy close to what the reward preferred; its weight is ``winner_weight``, in the paper 1, by default 0.1.
"""

from __future__ import annotations

from actors.learner.objectives import dpo_fm

term = dpo_fm.term
