-- Cheaper single changes. PostgreSQL parses each CHECK of a table again from its stored form in every statement that
-- writes a row, even in a statement that only counts a child: nine checks were half of the cost of adding a prefix. So
-- rules about one column became domains, which are checked when a value is made and never again. Rules about several
-- columns are checked by the functions that write (check_place, check_node), and `nipap-admin check` verifies them.

CREATE DOMAIN prefix_type AS text CONSTRAINT prefix_type_check CHECK (VALUE IN ('reservation', 'assignment', 'host'));
COMMENT ON DOMAIN prefix_type IS 'What a prefix is for.';
CREATE DOMAIN prefix_status AS text CONSTRAINT prefix_status_check CHECK (VALUE IN ('assigned', 'reserved', 'quarantine'));
COMMENT ON DOMAIN prefix_status IS 'Whether a prefix is in use.';
CREATE DOMAIN country_code AS text CONSTRAINT country_code_check CHECK (VALUE ~ '^[A-Z]{2}$');
COMMENT ON DOMAIN country_code IS 'ISO 3166-1 alpha-2, upper case.';
CREATE DOMAIN alarm_priority AS text CONSTRAINT alarm_priority_check CHECK (VALUE IN ('warning', 'low', 'medium', 'high', 'critical'));
COMMENT ON DOMAIN alarm_priority IS 'How urgent an alarm is.';
CREATE DOMAIN vlan_id AS integer CONSTRAINT vlan_id_check CHECK (VALUE BETWEEN 0 AND 4095);
COMMENT ON DOMAIN vlan_id IS 'VLAN identifier (IEEE 802.1Q).';
CREATE DOMAIN pairs AS jsonb CONSTRAINT pairs_check CHECK (jsonb_typeof(VALUE) = 'object');
COMMENT ON DOMAIN pairs IS 'Attribute-value pairs, string to string.';

ALTER TABLE prefix
    DROP CONSTRAINT prefix_type_check, ALTER type TYPE prefix_type,
    DROP CONSTRAINT prefix_status_check, ALTER status TYPE prefix_status,
    DROP CONSTRAINT prefix_country_check, ALTER country TYPE country_code,
    DROP CONSTRAINT prefix_alarm_priority_check, ALTER alarm_priority TYPE alarm_priority,
    DROP CONSTRAINT prefix_vlan_check, ALTER vlan TYPE vlan_id,
    DROP CONSTRAINT prefix_avps_check, ALTER avps TYPE pairs,
    DROP CONSTRAINT prefix_host_length_check,
    DROP CONSTRAINT prefix_node_reservation_check,
    DROP CONSTRAINT prefix_node_assignment_check;
-- An addition of a prefix locks the VRF or a prefix in it, and a removal of a VRF locks all its prefixes. A foreign key
-- that reads the VRF once more, and marks the row of the VRF for every added prefix, brought nothing. The check
-- verifies it.
ALTER TABLE prefix DROP CONSTRAINT prefix_vrf_id_fkey;
ALTER TABLE free_range DROP CONSTRAINT free_range_order_check;
ALTER TABLE audit_log
    DROP CONSTRAINT audit_log_object_type_check,
    DROP CONSTRAINT audit_log_action_check,
    DROP CONSTRAINT audit_log_values_check;

-- The functions that add and remove a prefix also write its text: a trigger for each row was a fifth of the cost of
-- loading. Edits of the text are left to the trigger, which fires only when a word changes.
DROP TRIGGER prefix_words_insert ON prefix;
DROP TRIGGER prefix_words_delete ON prefix;
CREATE OR REPLACE FUNCTION keep_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE prefix_words SET words = words_of(NEW) WHERE prefix_id = NEW.id;
    RETURN NULL;
END $$;
