"""All of Hydra: overrides, composition, grids, catalogue, origins, jobs."""
