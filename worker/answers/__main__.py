import sys

from worker.answers.asking import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
