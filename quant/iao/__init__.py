"""The preset `iao`: the arithmetic of the original scripts."""
