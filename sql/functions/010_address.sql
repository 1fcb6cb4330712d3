-- Arithmetic on addresses and ranges. All immutable; a range is its first and last address, both full length.
-- Traps: broadcast() keeps the mask length; inet - inet is bigint and fails beyond 2^63; 255.255.255.255 + 1 is an
-- error, so compare before stepping; power(2::numeric, 128) carries 16 decimals. SQL functions are not STRICT: CASE in a
-- strict one keeps it from being inlined, which costs ten times as much.

CREATE OR REPLACE FUNCTION full_length(x inet) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE family(x) WHEN 4 THEN 32 ELSE 128 END;
COMMENT ON FUNCTION full_length(inet) IS 'Prefix length of a single address in the family of x.';

CREATE OR REPLACE FUNCTION addr_first(x inet) RETURNS inet LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN set_masklen(network(x)::inet, full_length(x));
COMMENT ON FUNCTION addr_first(inet) IS 'First address of a network, full length.';

CREATE OR REPLACE FUNCTION addr_last(x inet) RETURNS inet LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN set_masklen(broadcast(x), full_length(x));
COMMENT ON FUNCTION addr_last(inet) IS 'Last address of a network, full length.';

DO $do$ BEGIN
    -- One array look-up: exact, where power() is not.
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION exp2(n int) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (%L::numeric[])[n + 1]',
        (SELECT array_agg(trim_scale(power(2::numeric, g)) ORDER BY g) FROM generate_series(0, 128) g));
END $do$;
COMMENT ON FUNCTION exp2(int) IS '2^n exactly, for n from 0 to 128.';

CREATE OR REPLACE FUNCTION prefix_size(x inet) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN exp2(full_length(x) - masklen(x));
COMMENT ON FUNCTION prefix_size(inet) IS 'Number of addresses in a network.';

CREATE OR REPLACE FUNCTION supernets(x inet) RETURNS cidr[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT network(set_masklen(x, g)) FROM generate_series(masklen(x) - 1, 0, -1) g);
COMMENT ON FUNCTION supernets(inet) IS 'All networks that cover x, longest first, without x itself.';

CREATE OR REPLACE FUNCTION addr_number(a inet) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    b bytea;
    high bigint;
    low bigint;
BEGIN
    IF family(a) = 4 THEN
        RETURN a - inet '0.0.0.0';
    END IF;
    b := inet_send(a);
    high := ('x' || encode(substring(b, 5, 8), 'hex'))::bit(64)::bigint;
    low := ('x' || encode(substring(b, 13, 8), 'hex'))::bit(64)::bigint;
    RETURN (CASE WHEN high < 0 THEN high + 18446744073709551616 ELSE high END) * 18446744073709551616
         + CASE WHEN low < 0 THEN low + 18446744073709551616 ELSE low END;
END $$;
COMMENT ON FUNCTION addr_number(inet) IS 'An address as an unsigned integer.';

CREATE OR REPLACE FUNCTION range_fit(a inet, z inet) RETURNS int LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    around inet := inet_merge(a, z);
    n int := masklen(around);
    width int := masklen(a);
    at_start boolean := set_masklen(around, width) = a;
    at_end boolean := set_masklen(broadcast(around), width) = z;
BEGIN
    IF at_start AND at_end THEN
        RETURN n;
    ELSIF at_start OR at_end THEN
        RETURN n + 1;
    END IF;
    -- a lies in the lower half of what is around both, z in the upper one: the largest block of each half that
    -- reaches the middle begins one bit below where a - 1 (or z + 1) and the middle part.
    RETURN 1 + least(
        masklen(inet_merge(a - 1, set_masklen(broadcast(set_masklen(a, n + 1)), width))),
        masklen(inet_merge(z + 1, set_masklen(network(set_masklen(z, n + 1))::inet, width))));
END $$;
COMMENT ON FUNCTION range_fit(inet, inet) IS 'Prefix length of the largest aligned block in a range.';

CREATE OR REPLACE FUNCTION first_block(a inet, z inet, len int) RETURNS cidr LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    block cidr := network(set_masklen(a, len));
BEGIN
    IF set_masklen(block::inet, masklen(a)) <> a THEN
        IF addr_last(block) >= z THEN
            RETURN NULL;
        END IF;
        block := network(set_masklen(addr_last(block) + 1, len));
    END IF;
    RETURN CASE WHEN addr_last(block) <= z THEN block END;
END $$;
COMMENT ON FUNCTION first_block(inet, inet, int) IS 'Lowest aligned block of a length that lies wholly in a range; NULL when none does.';

CREATE OR REPLACE FUNCTION count_blocks(a inet, z inet, len int) RETURNS numeric LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT AS $$
DECLARE
    size numeric;
    bits int := masklen(a) - len;
BEGIN
    IF masklen(a) = 32 THEN
        RETURN greatest(0, ((z - inet '0.0.0.0' + 1) >> bits) - ((a - inet '0.0.0.0' + (1::bigint << bits) - 1) >> bits));
    END IF;
    size := exp2(bits);
    RETURN greatest(0, div(addr_number(z) + 1, size) - div(addr_number(a) + size - 1, size));
END $$;
COMMENT ON FUNCTION count_blocks(inet, inet, int) IS 'Number of aligned blocks of a length that lie wholly in a range.';
