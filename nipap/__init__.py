"""IP address management: the tree of prefixes in VRFs, pools to allocate from, and AS numbers."""

__version__ = '1.0.0'
