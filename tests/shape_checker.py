"""The type checker of the test run, named in pyproject.toml: beartype, without an opinion on
`Self`.

Methods are decorated one by one, where beartype does not know which class `Self` would be.
"""

from typing import Any, Self

from beartype import BeartypeConf, BeartypeHintOverrides, beartype

check = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides({Self: Any})))
