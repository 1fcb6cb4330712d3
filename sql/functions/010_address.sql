-- Arithmetic on addresses and ranges. All functions are immutable. A range is its first and its last address, both of
-- full length. Traps: broadcast() keeps the mask length; inet - inet is a bigint and fails beyond 2^63; 255.255.255.255
-- + 1 is an error, so compare before stepping; power(2::numeric, 128) carries 16 decimals. SQL functions are not
-- STRICT: PostgreSQL does not inline a strict function that contains CASE, and a call then costs ten times as much.

CREATE OR REPLACE FUNCTION full_length(address inet) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE family(address) WHEN 4 THEN 32 ELSE 128 END;
COMMENT ON FUNCTION full_length(inet) IS 'Prefix length of a single address in its family.';

CREATE OR REPLACE FUNCTION addr_first(network inet) RETURNS inet LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN set_masklen(network(network)::inet, full_length(network));
COMMENT ON FUNCTION addr_first(inet) IS 'First address of a network, full length.';

CREATE OR REPLACE FUNCTION addr_last(network inet) RETURNS inet LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN set_masklen(broadcast(network), full_length(network));
COMMENT ON FUNCTION addr_last(inet) IS 'Last address of a network, full length.';

DO $do$ BEGIN
    -- Look the power up in an array: the array is exact, power() is not.
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION exp2(exponent int) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (%L::numeric[])[exponent + 1]',
        (SELECT array_agg(trim_scale(power(2::numeric, g)) ORDER BY g) FROM generate_series(0, 128) g));
END $do$;
COMMENT ON FUNCTION exp2(int) IS '2^exponent exactly, for exponents from 0 to 128.';

CREATE OR REPLACE FUNCTION prefix_size(network inet) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN exp2(full_length(network) - masklen(network));
COMMENT ON FUNCTION prefix_size(inet) IS 'Number of addresses in a network.';

CREATE OR REPLACE FUNCTION supernets(network inet) RETURNS cidr[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT network(set_masklen(network, length)) FROM generate_series(masklen(network) - 1, 0, -1) length);
COMMENT ON FUNCTION supernets(inet) IS 'All networks that cover a network, longest first, without itself.';

CREATE OR REPLACE FUNCTION addr_number(address inet) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    bytes bytea;
    high bigint;
    low bigint;
BEGIN
    IF family(address) = 4 THEN
        RETURN address - inet '0.0.0.0';
    END IF;
    bytes := inet_send(address);
    high := ('x' || encode(substring(bytes, 5, 8), 'hex'))::bit(64)::bigint;
    low := ('x' || encode(substring(bytes, 13, 8), 'hex'))::bit(64)::bigint;
    RETURN (CASE WHEN high < 0 THEN high + 18446744073709551616 ELSE high END) * 18446744073709551616
         + CASE WHEN low < 0 THEN low + 18446744073709551616 ELSE low END;
END $$;
COMMENT ON FUNCTION addr_number(inet) IS 'An address as an unsigned integer.';

CREATE OR REPLACE FUNCTION range_fit(first_address inet, last_address inet) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    around inet := inet_merge(first_address, last_address);
    length int := masklen(around);
    width int := masklen(first_address);
    at_start boolean := set_masklen(around, width) = first_address;
    at_end boolean := set_masklen(broadcast(around), width) = last_address;
BEGIN
    IF at_start AND at_end THEN
        RETURN length;
    ELSIF at_start OR at_end THEN
        RETURN length + 1;
    END IF;
    -- The first address lies in the lower half of the smallest network around both addresses, the last address in the
    -- upper half. In each half, the largest block that touches the middle is one bit longer than the common prefix of
    -- first_address - 1 (or last_address + 1) and the addresses at the middle.
    RETURN 1 + least(
        masklen(inet_merge(first_address - 1, set_masklen(broadcast(set_masklen(first_address, length + 1)), width))),
        masklen(inet_merge(last_address + 1, set_masklen(network(set_masklen(last_address, length + 1))::inet, width))));
END $$;
COMMENT ON FUNCTION range_fit(inet, inet) IS 'Prefix length of the largest aligned block in a range.';

CREATE OR REPLACE FUNCTION first_block(first_address inet, last_address inet, length int) RETURNS cidr LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    block cidr := network(set_masklen(first_address, length));
BEGIN
    IF set_masklen(block::inet, masklen(first_address)) <> first_address THEN
        IF addr_last(block) >= last_address THEN
            RETURN NULL;
        END IF;
        block := network(set_masklen(addr_last(block) + 1, length));
    END IF;
    RETURN CASE WHEN addr_last(block) <= last_address THEN block END;
END $$;
COMMENT ON FUNCTION first_block(inet, inet, int) IS 'Lowest aligned block of a length that lies wholly in a range; NULL when none does.';

CREATE OR REPLACE FUNCTION count_blocks(first_address inet, last_address inet, length int) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    size numeric;
    bits int := masklen(first_address) - length;
BEGIN
    IF masklen(first_address) = 32 THEN
        RETURN greatest(0, ((last_address - inet '0.0.0.0' + 1) >> bits) - ((first_address - inet '0.0.0.0' + (1::bigint << bits) - 1) >> bits));
    END IF;
    size := exp2(bits);
    RETURN greatest(0, div(addr_number(last_address) + 1, size) - div(addr_number(first_address) + size - 1, size));
END $$;
COMMENT ON FUNCTION count_blocks(inet, inet, int) IS 'Number of aligned blocks of a length that lie wholly in a range.';
