"""Commits as an fsspec file system: pandas, pyarrow, zarr, dask and others open files in them, from the local store or
from a place, without root, a mount or a pull.

``import stratum.fs`` gives ``StratumFileSystem``; fsspec finds it by the protocol ``stratum`` where the package is
installed, or after this import. It needs fsspec: ``pip install 'stratum-oci[fs]'``.
"""

try:
    import fsspec as _fsspec
except ImportError as exc:  # pragma: no cover - the tests have it
    raise ImportError("stratum.fs needs fsspec: pip install 'stratum-oci[fs]'") from exc

from stratum.fs.filesystem import StratumFileSystem

__all__ = ["StratumFileSystem"]

_fsspec.register_implementation("stratum", StratumFileSystem, clobber=True)
