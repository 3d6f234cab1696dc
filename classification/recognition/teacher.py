"""Students as teachers: `teachers.NAME = {name: student, weights: RUN or FILE}`.

For a file whose architecture cannot be read, the name is student/NAME with timm's name of it.
"""

from classification.recognition.run import read_student
from classification.recognition.settings import StudentSettings
from gan_vkd.teachers.interface import TEACHERS, Built, local_path
from gan_vkd.teachers.settings import NetworkSettings


@TEACHERS.register("student")
def student(settings: NetworkSettings, whole: bool = False) -> Built:
    """The student of a run or of a file, which predicts by the mean of its heads."""
    name = settings.name.partition("/")[2]
    given = StudentSettings(name=name) if name else None
    network, facts = read_student(local_path(settings), given=given)
    head = network.network.get_classifier()
    head = head[0] if isinstance(head, tuple) else head
    place = next(name for name, module in network.named_modules() if module is head)
    return Built(network, facts["mean"], facts["std"], facts["resolution"], classifier=place)
