"""What proven code may name (code_proof.py): builtins, attributes, modules and their functions."""

from __future__ import annotations

import builtins

HARMLESS = """
abs all any ascii bin bool bytes callable chr complex dict divmod enumerate filter float format frozenset hex int
isinstance
issubclass iter len list map max min next oct ord pow print range repr reversed round set slice sorted str sum tuple zip
True False None NotImplemented Ellipsis
"""
BUILTINS = frozenset(HARMLESS.split()) | {
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException) and not issubclass(value, BaseExceptionGroup)
}
OTHER_BUILTINS = frozenset(vars(builtins)) - BUILTINS
"""`type` and `eval` are never values; `_check_name` decides which calls of them are proven."""

PUBLIC = """
capitalize casefold center count encode decode endswith expandtabs find index isalnum isalpha isascii isdecimal
isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans partition
removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip
swapcase title translate upper zfill hex fromhex append clear copy extend insert pop remove reverse sort fromkeys get
items keys popitem setdefault update values add difference difference_update discard intersection intersection_update
isdisjoint issubset issuperset symmetric_difference symmetric_difference_update union start stop step as_integer_ratio
bit_count bit_length conjugate denominator from_bytes imag is_integer numerator real to_bytes year month day hour
minute second microsecond tzinfo fold days seconds microseconds total_seconds min max resolution today now utcnow
fromtimestamp utcfromtimestamp timestamp fromordinal toordinal fromisoformat isoformat fromisocalendar isocalendar
isoweekday weekday week strptime strftime timetuple utctimetuple date time timetz combine astimezone ctime utcoffset
dst tzname utc end endpos expand group groupdict groupindex groups lastgroup lastindex pos span string flags pattern
match fullmatch search findall finditer sub subn most_common elements total subtract appendleft extendleft popleft
rotate maxlen move_to_end default_factory quantize normalize to_integral_value sqrt ln log10 exp is_nan is_infinite
is_finite is_signed is_zero as_tuple limit_denominator args msg lineno colno
"""
ATTRIBUTES = frozenset(PUBLIC.split())
"""Methods and attributes of text, numbers, containers, dates, matches, Counter, deque, Decimal, Fraction, errors."""

MODULES: dict[str, frozenset[str]] = {
    module: frozenset(names.split())
    for module, names in {
        "__future__": "annotations",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "calendar": "monthrange isleap leapdays weekday timegm",
        "cmath": "acos acosh asin asinh atan atanh cos cosh e exp inf infj isclose isfinite isinf isnan log log10 nan"
        " nanj phase"
        " pi polar rect sin sinh sqrt tan tanh tau",
        "collections": "Counter OrderedDict defaultdict deque",
        "datetime": "datetime date time timedelta timezone UTC MINYEAR MAXYEAR",
        "decimal": "Decimal ROUND_HALF_UP ROUND_HALF_EVEN ROUND_HALF_DOWN ROUND_UP ROUND_DOWN ROUND_CEILING ROUND_FLOOR"
        " InvalidOperation DivisionByZero DecimalException",
        "fractions": "Fraction",
        "functools": "reduce",
        "heapq": "heappush heappop heapify heappushpop heapreplace nlargest nsmallest",
        "itertools": "accumulate chain combinations combinations_with_replacement compress count cycle dropwhile"
        " filterfalse"
        " groupby islice pairwise permutations product repeat starmap takewhile zip_longest",
        "json": "dumps loads JSONDecodeError",
        "math": "acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp"
        " exp2 expm1 fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm"
        " ldexp lgamma log"
        " log10 log1p log2 modf nan nextafter perm pi pow prod radians remainder sin sinh sqrt tan tanh tau trunc ulp",
        "operator": "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ xor invert lshift"
        " rshift"
        " concat contains countOf indexOf getitem itemgetter truth is_ is_not",
        "random": "random randint randrange choice choices sample shuffle uniform gauss normalvariate triangular"
        " expovariate"
        " betavariate seed getrandbits",
        "re": "compile match search fullmatch findall finditer sub subn split escape error A ASCII I IGNORECASE M"
        " MULTILINE"
        " S DOTALL X VERBOSE U UNICODE",
        "statistics": "mean fmean geometric_mean harmonic_mean median median_low median_high median_grouped mode"
        " multimode"
        " pstdev pvariance stdev variance quantiles correlation covariance StatisticsError",
        "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits punctuation printable"
        " whitespace"
        " capwords",
        "time": "time strftime strptime localtime gmtime mktime asctime ctime perf_counter monotonic process_time",
        "typing": "Any Optional Union List Dict Tuple Set FrozenSet Callable Iterable Iterator Sequence Mapping"
        " Literal",
        "unicodedata": "normalize category name combining decimal digit numeric",
    }.items()
}
ANNOTATION_MODULES = ("typing",)
"""Modules whose names may appear only in annotations, where code can only subscript them."""


CALLED_ONLY = frozenset({"Counter", "Fraction"})
"""Classes written in Python. Code may only call them, because `Counter.copy(int)` would return `type(int)`.

The methods of all other listed classes are written in C and reject a foreign `self`.
"""
