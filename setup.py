"""Which packages a wheel holds; everything else about the project is in pyproject.toml.

`conf` stays at the top of the repository, where users look for it, and is installed as
`harness/conf`. pyproject.toml has no way to add one mapped package to those that are found.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["harness*", "methods*", "analysis*", "hydra_plugins*"]),
        "harness.conf",
    ],
    package_dir={"harness.conf": "conf"},
)
