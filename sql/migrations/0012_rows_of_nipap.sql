-- Allow rows that databases of NIPAP hold: pools without a default type, and numbers that are no valid VLAN. The
-- functions that change prefixes refuse a new VLAN beyond 0 to 4095.
ALTER TABLE pool ALTER default_type DROP NOT NULL;
COMMENT ON COLUMN pool.default_type IS 'Type of the prefixes that are allocated from the pool; without one an allocation names its type.';
ALTER DOMAIN vlan_id DROP CONSTRAINT vlan_id_check;
COMMENT ON DOMAIN vlan_id IS 'VLAN identifier (IEEE 802.1Q), 0 to 4095; NIPAP stored others, and these may stay.';
COMMENT ON COLUMN prefix.vlan IS 'VLAN identifier, 0 to 4095; NIPAP stored others, and these may stay.';
COMMENT ON COLUMN prefix.node IS 'Name of the node a full-length prefix sits on; NIPAP stored it of others too, and there it may stay.';
