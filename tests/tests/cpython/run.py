"""Runs the tests of one module of CPython's own suite, one after the other; a line each: `begin NAME`, then
`pass`, `skip` or `fail` with the name and the reason; `end` at the end. AFTER=NAME goes on behind that test,
ONLY=NAME runs that one alone, TESTS=DIRECTORY is where the modules lie if not in the library.
"""
import importlib, os, re, sys, unittest
import test

if os.environ.get("TESTS"):
    test.__path__.append(os.environ["TESTS"])
import test.support

test.support.verbose = False
test.support.use_resources = ["network"]
# Neither of IPv4 nor of IPv6, or another transport.
OTHERS = re.compile("VSOCK|CAN|ISOTP|J1939|BlueTooth|Bluetooth|RDS|TIPC|Qipcrtr|UDPLITE|Crypto|HyperV|Unix|AFUNIX|SCMRights")


class Result(unittest.TestResult):
    def say(self, what, test, why=""):
        self.said = True
        print(what, test.id(), why.replace("\n", " | ")[-900:], flush=True)

    def startTest(self, test):
        super().startTest(test)
        self.said = False
        print("begin", test.id(), flush=True)

    def addSuccess(self, test):
        if not self.said:
            self.say("pass", test)

    def addSkip(self, test, reason):
        self.say("skip", test, reason)

    def addError(self, test, error):
        self.say("fail", test, self._exc_info_to_string(error, test))

    addFailure = addError

    def addSubTest(self, test, part, error):
        if error:
            self.addError(test, error)

    def addExpectedFailure(self, test, error):
        self.say("pass", test)

    addUnexpectedSuccess = addSuccess


def each(suite):
    for one in suite:
        if isinstance(one, unittest.TestSuite):
            yield from each(one)
        elif not OTHERS.search(one.id()):
            yield one



module = importlib.import_module("test." + sys.argv[1])
tests = list(each(unittest.TestLoader().loadTestsFromModule(module)))
names = [one.id() for one in tests]
if os.environ.get("AFTER"):
    tests = tests[names.index(os.environ["AFTER"]) + 1:]
if os.environ.get("ONLY"):
    tests = [tests[names.index(os.environ["ONLY"])]]
unittest.TestSuite(tests).run(Result())
print("end", flush=True)
# Threads that a test has left behind are nobody's to wait for.
os._exit(0)
