"""Everything about the package is said once, in settings.ini; this file only reads it."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(HERE / "settings.ini", encoding="utf-8")
card = config["DEFAULT"]


def words(key: str) -> list[str]:
    "The entries of one settings.ini line, split at blanks."
    return card.get(key, "").split()


def readme() -> str:
    "README.md for a page outside the repository: its pictures by their full address."
    text = (HERE / "README.md").read_text(encoding="utf-8")
    pictures = f"{card['git_url']}/raw/{card['branch']}/README_files/"
    return text.replace("](README_files/", f"]({pictures}").replace(
        '"README_files/', f'"{pictures}'
    )


setup(
    name=card["lib_name"],
    version=card["version"],
    description=card["description"],
    long_description=readme(),
    long_description_content_type="text/markdown",
    author=card["author"],
    url=card["git_url"],
    keywords=card["keywords"],
    license="MIT",
    license_files=["LICENSE"],
    packages=find_packages(include=["gem_detector", "gem_detector.*"]),
    package_data={"gem_detector": ["py.typed", "*.pyi", "data/**/*"]},
    include_package_data=True,
    python_requires=f">={card['min_python']}",
    install_requires=words("requirements"),
    extras_require={
        "dev": words("dev_requirements"),
        "jupyter": words("jupyter_requirements"),
        "cluster": words("cluster_requirements"),
    },
    entry_points={
        "console_scripts": words("console_scripts"),
        "nbdev": ["gem_detector=gem_detector._modidx:d"],
    },
    zip_safe=False,
)
