-- Allow rows that databases of NIPAP hold: pools without a default type, and numbers that are no valid VLAN. The
-- functions that change prefixes refuse a new VLAN beyond 0 to 4095.
ALTER TABLE pool ALTER default_type DROP NOT NULL;
COMMENT ON COLUMN pool.default_type IS 'Type of the prefixes that are allocated from the pool; NULL: each allocation must give a type.';
ALTER DOMAIN vlan_id DROP CONSTRAINT vlan_id_check;
COMMENT ON DOMAIN vlan_id IS 'VLAN identifier (IEEE 802.1Q), 0 to 4095. Other values from databases of NIPAP are kept.';
COMMENT ON COLUMN prefix.vlan IS 'VLAN identifier, 0 to 4095. Other values from databases of NIPAP are kept.';
COMMENT ON COLUMN prefix.node IS 'Name of the node of a full-length prefix. Nodes of shorter prefixes from databases of NIPAP are kept.';
