"""Synthetic prefixes in the form of search results, for timing encoders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(2026, 11, 22, 19, 14, 49, tzinfo=UTC)


def prefix(i: int) -> dict[str, object]:
    """Return the 35 members of a prefix as a search shows it, with the variety of real networks."""
    network = f'10.{i >> 8 & 255}.{i & 255}.0/24'
    return {
        'id': 100_000 + i,
        'vrf_id': 0,
        'vrf_rt': None,
        'vrf_name': 'default',
        'family': 4,
        'display': True,
        'match': i % 9 != 0,
        'prefix': network,
        'prefix_length': 24,
        'display_prefix': network,
        'description': f'Office {i} & laboratory' if i % 50 == 0 else f'Office LAN {i}, building {i % 7}',
        'comment': None if i % 3 else f'moved from rack {i % 40}',
        'inherited_tags': ['se', 'rfc1918', f'site-{i % 20}'],
        'tags': ['office'] if i % 4 == 0 else [],
        'node': None,
        'pool_id': None if i % 5 else 7,
        'pool_name': None if i % 5 else 'offices',
        'type': 'assignment',
        'status': 'assigned',
        'indent': 2 + i % 3,
        'country': 'SE' if i % 2 else None,
        'order_id': f'ORD-{i:06}' if i % 2 else None,
        'customer_id': f'{i % 300}' if i % 2 else None,
        'external_key': None,
        'authoritative_source': 'nipap',
        'alarm_priority': None,
        'monitor': i % 6 == 0,
        'vlan': i % 4096 if i % 2 else None,
        'added': EPOCH - timedelta(seconds=977 * i),
        'last_modified': EPOCH - timedelta(seconds=311 * i),
        'children': i % 11,
        'total_addresses': 256,
        'used_addresses': i % 256,
        'free_addresses': 256 - i % 256,
        'avps': {'cost': str(i)} if i % 10 == 0 else {},
        'expires': None if i % 8 else EPOCH + timedelta(days=i),
    }


def for_standard_library(row: dict[str, object]) -> dict[str, object]:
    """Return a row with its counters as text, which our encoder converts by itself."""
    return {name: str(value) if name.endswith('_addresses') else value for name, value in row.items()}
