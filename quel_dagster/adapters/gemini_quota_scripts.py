"""What Redis decides for `gemini_quota`: its keys, and one script for every step. Times are Redis's own."""

from __future__ import annotations

#: sorted sets: calls by when they were begun, by when their place lapses; those who wait by when they first asked,
#: and by when they count as gone. Strings: until when all pause, and how many may be in flight after a pause.
CALLS = "quel:gemini:calls"
FLIGHT = "quel:gemini:flight"
LINE = "quel:gemini:line"
SEEN = "quel:gemini:seen"
PAUSE = "quel:gemini:pause"
WIDTH = "quel:gemini:width"
KEYS = (CALLS, FLIGHT, LINE, SEEN, PAUSE, WIDTH)

_NOW = """
local calls, flight, line, seen, pause, width = unpack(KEYS)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

# → 1 when there is no pause and no limit after a pause, else 0
_TELL = """
return (tonumber(redis.call('GET', pause) or 0) <= now and redis.call('EXISTS', width) == 0) and 1 or 0
"""

# → {milliseconds to wait, why, when this caller first asked}; 0: a place is taken
ENTER = (
    _NOW
    + """
local token, limit, window, places, place_ms, seen_ms, asked = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]),
    tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if asked == 0 then asked = now end
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now)) do
    redis.call('ZREM', seen, gone)
    redis.call('ZREM', line, gone)
end
redis.call('ZREMRANGEBYSCORE', flight, '-inf', now)
redis.call('ZREMRANGEBYSCORE', calls, '-inf', now - window)
redis.call('ZADD', line, asked, token)
redis.call('ZADD', seen, now + seen_ms, token)
redis.call('PEXPIRE', line, 2 * seen_ms)
redis.call('PEXPIRE', seen, 2 * seen_ms)
local rank = redis.call('ZRANK', line, token)

local resume = tonumber(redis.call('GET', pause) or 0)
if resume > now then return {resume - now, 'pause', asked} end

local narrow = tonumber(redis.call('GET', width) or 0)
if narrow > 0 and (places == 0 or narrow < places) then places = narrow end
if places > 0 and rank >= places - redis.call('ZCARD', flight) then return {40 + 20 * rank, 'flight', asked} end

if limit > 0 then
    local behind = rank - (limit - redis.call('ZCARD', calls))
    if behind >= 0 then
        local last = redis.call('ZRANGE', calls, behind, behind, 'WITHSCORES')
        return {last[2] and last[2] + window - now + 1 or window, 'rate', asked}
    end
    redis.call('ZADD', calls, now, token)
    redis.call('PEXPIRE', calls, window)
end
redis.call('ZREM', line, token)
redis.call('ZREM', seen, token)
redis.call('ZADD', flight, now + place_ms, token)
redis.call('PEXPIRE', flight, 2 * place_ms)
return {0, '', asked}
"""
)

# A place without asking whether there is one.
JOIN = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', flight, '-inf', now)
redis.call('ZADD', flight, now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', flight, 2 * ARGV[2])
"""
    + _TELL
)

LEAVE = (
    _NOW
    + """
local token, outcome, pause_ms, narrow_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local in_flight = redis.call('ZCARD', flight)
redis.call('ZREM', flight, token)
redis.call('ZREM', line, token)
redis.call('ZREM', seen, token)
if outcome == 'ok' and redis.call('EXISTS', width) == 1 then redis.call('INCR', width) end
if outcome == 'limited' then
    local narrow = math.max(1, math.floor(in_flight / 2))
    redis.call('SET', width, math.min(narrow, tonumber(redis.call('GET', width) or narrow)), 'PX', pause_ms + narrow_ms)
    if now + pause_ms > tonumber(redis.call('GET', pause) or 0) then
        redis.call('SET', pause, now + pause_ms, 'PX', pause_ms)
    end
end
"""
    + _TELL
)

RENEW = (
    _NOW
    + """
for place = 2, #ARGV do redis.call('ZADD', flight, 'XX', now + ARGV[1], ARGV[place]) end
redis.call('PEXPIRE', flight, 2 * ARGV[1])
"""
    + _TELL
)
