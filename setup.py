"""What pyproject.toml cannot say: a wheel holds recipes/ too, as the folder `nearfar_recipes`."""

from setuptools import find_packages, setup

RECIPES = {
    "nearfar_recipes": "recipes",
    "nearfar_recipes.pipelines": "recipes/pipelines",
}

setup(
    packages=[*find_packages(include=["trainer", "trainer.*"]), *RECIPES],
    package_dir=RECIPES,
    package_data={
        "trainer": ["py.typed", "report/templates/*", "slurm/job.sh"],
        **{name: ["*.yaml"] for name in RECIPES},
    },
)
